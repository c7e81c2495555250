"""One file for each format of event streams; `qsdt_jax.data.event_files` chooses among them."""
