"""For all tests: how programs are compiled and where they are kept, and the order of the files."""

import os
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# A program compiled by one test is there for the next, in other processes and in later runs too.
# In the environment, so that the processes that tests start have it as well.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Folders whose tests compare bits: their programs are compiled as those of users are. Elsewhere that is twice
# the time for nothing: what is asserted holds for any compiler.
OPTIMIZED = ("core", "layers", "deploy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that the other processes have enough to do meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_resume.py")


@pytest.fixture(autouse=True, scope="module")
def programs(request):
    """Compiles with optimizations where they matter; frees the programs of a file, all would be gigabytes."""
    import jax

    quickly = request.path.parent.name not in OPTIMIZED
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quickly))  # For processes that tests start.
    jax.config.update("jax_disable_most_optimizations", quickly)
    yield
    jax.clear_caches()
