"""What all tests rely on: none leaves the process as another one does not expect it."""

import jax

from tests.conftest import options_restored


def test_options_that_a_command_sets_are_set_back():
    before = dict(jax.config.values)
    with options_restored():
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", not before["jax_enable_x64"])
        assert jax.config.values != before
    assert jax.config.values == before
    assert (jax.numpy.ones(()).dtype == "float64") == before["jax_enable_x64"]
