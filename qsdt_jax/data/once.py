"""A property that is computed once, by whichever thread asks first, while the others wait."""

import functools
import threading
from typing import Any


class once(functools.cached_property):
    """`functools.cached_property` with the lock that it lost in Python 3.12.

    Without it each of the threads that read the first batch would make the value for itself.
    """

    def __init__(self, function: Any):
        super().__init__(function)
        self._making = threading.RLock()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        with self._making:
            return super().__get__(instance, owner)
