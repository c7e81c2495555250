"""The values of an example as arrays that a device can hold, each with the type that it has.

Numbers of Python, which have no dtype, become int32 and float32. On the device float64 becomes float32 and
integers of 64 bits become those of 32, unless `jax_enable_x64` is on. Integers that 32 bits do not hold are
therefore refused without it; another number is worse than none.
"""

from typing import Any

import jax
import numpy as np

from qsdt_jax.data.sources import Example
from qsdt_jax.errors import UserError

Arrays = dict[str, np.ndarray]


def has_64_bits() -> bool:
    """Whether the device does; asked where the batches are, as the processes that read do not know."""
    return jax.dtypes.canonicalize_dtype(np.int64) == np.int64


def as_arrays(example: Example, wide: bool) -> Arrays:
    """The values as arrays that a device can hold; `wide` where it has 64 bits."""
    return {name: _as_array(name, value, wide) for name, value in example.items()}


def _as_array(name: str, value: Any, wide: bool) -> np.ndarray:
    if isinstance(value, (int, float)) and not isinstance(value, (bool, np.generic)):
        # NumPy alone would make 64 bits of them.
        if isinstance(value, float):
            return np.asarray(value, np.float32)
        _require_fit(name, value, np.int32)
        return np.asarray(value, np.int32)
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        raise ValueError(f"{name!r} of an example is {type(value).__name__}; expected numbers for an array")
    if not wide and array.size and array.dtype in (np.int64, np.uint64):
        for bound in (array.min(), array.max()):
            _require_fit(name, int(bound), np.int32 if array.dtype == np.int64 else np.uint32)
    return array


def _require_fit(name: str, value: int, dtype: type[np.integer]) -> None:
    if not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise UserError(
            f"{name!r} of an example holds {value}, which {dtype.__name__} does not; "
            "with jax_enable_x64 an integer of NumPy's may have 64 bits"
        )
