"""What a computation sees of the devices that `pmap` has spread it over.

In a pmapped step each device has some rows of the batch and runs the same program on them. The few places
where rows matter to each other, batch norm, mixing, what is drawn for a row, go through these functions, so
that the result is that of the whole batch. Anywhere else, inside `jit` above all, where an array is the whole
batch on whatever devices it lies, each of them leaves its argument alone.
"""

from typing import TypeVar

import jax
from jax import lax

T = TypeVar("T")

AXIS = "devices"  # What pmap's axis has to be called.


def device_count() -> int:
    """Number of devices that hold the batch, in pmap; 1 elsewhere."""
    try:
        return lax.axis_size(AXIS)
    except NameError:
        return 1


def mean_over_devices(tree: T) -> T:
    """Mean of each leaf over the devices."""
    return tree if device_count() == 1 else lax.pmean(tree, AXIS)


def sum_over_devices(tree: T) -> T:
    """Sum of each leaf over the devices."""
    return tree if device_count() == 1 else lax.psum(tree, AXIS)


def own_rows(rows: jax.Array) -> jax.Array:
    """This device's part of (B, ...) for the whole batch, which each device has computed alike."""
    count = device_count()
    if count == 1:
        return rows
    own = rows.shape[0] // count
    return lax.dynamic_slice_in_dim(rows, lax.axis_index(AXIS) * own, own)


def reversed_rows(rows: jax.Array) -> jax.Array:
    """The rows (..., of this device) of the whole batch in reversed order."""
    count = device_count()
    if count == 1:
        return rows[::-1]
    return lax.ppermute(rows[::-1], AXIS, [(i, count - 1 - i) for i in range(count)])
