"""For all tests: a program compiled by one is there for the next, in other processes and later runs too."""

import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
# In the environment, so that the processes that tests start have it as well.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
