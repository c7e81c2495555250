"""For all tests: how programs are compiled, JAX's options that no test leaves changed, the order of files."""

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qsdt_jax.cuda_plugin import allow_without_driver

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# A program compiled by one test is there for the next, in other processes and in later runs too.
# In the environment, so that the processes that tests start have it as well.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
allow_without_driver()
# Nearly all that is made while a network is traced lives on: collecting so often is a sixth of that time.
GARBAGE = 100_000, 50, 100
gc.set_threshold(*GARBAGE)
# Folders whose tests compare bits: their programs are compiled as those of users are. Elsewhere that is twice
# the time for nothing: what is asserted holds for any compiler.
OPTIMIZED = ("core", "layers", "deploy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that the other processes have enough to do meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_resume.py")


@contextlib.contextmanager
def options_restored() -> Iterator[None]:
    """Sets JAX's options back to what they were: a command that runs in this process sets some for itself."""
    import jax

    before = dict(jax.config.values)
    yield
    for name, value in jax.config.values.items():
        if value != before[name]:
            jax.config.update(name, before[name])


@pytest.fixture(autouse=True, scope="module")
def programs(request):
    """Compiles with optimizations where they matter; frees the programs of a file, all would be gigabytes."""
    import jax

    quickly = request.path.parent.name not in OPTIMIZED
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quickly))  # For processes that tests start.
    jax.config.update("jax_disable_most_optimizations", quickly)
    with options_restored():  # Fixtures of a file run commands as well.
        yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def options():
    """No test finds JAX's options as the one before has left them."""
    with options_restored():
        yield
