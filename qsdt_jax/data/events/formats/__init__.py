"""One file for each format of event streams; `qsdt_jax.data.events.files` chooses among them."""
