"""For all tests: where compiled programs are kept, and the order of the files."""

import os
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# A program compiled by one test is there for the next, in other processes and in later runs too.
# In the environment, so that the processes that tests start have it as well.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that the other processes have enough to do meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_resume.py")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the compiled programs of a file, which are gigabytes after some hundred tests."""
    yield
    import jax

    jax.clear_caches()
