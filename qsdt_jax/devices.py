"""What a computation sees of the devices that `pmap` has spread it over.

In a pmapped step each device has some rows of the batch and runs the same program on them. The few places
where rows matter to each other, batch norm, mixing, what is drawn for a row, go through these functions, so
that the result is that of the whole batch. Anywhere else, inside `jit` above all, where an array is the whole
batch on whatever devices it lies, each of them leaves its argument alone.
"""

import importlib.metadata
import importlib.util
from typing import TypeVar

import jax
from jax import lax

from qsdt_jax.errors import UserError

T = TypeVar("T")

AXIS = "devices"  # What pmap's axis has to be called.


def require_devices() -> None:
    """Raises UserError where JAX finds none of the devices that it was asked for."""
    try:
        jax.devices()
    except Exception as error:  # For platforms that it does not know, JAX raises a bare AssertionError.
        asked = jax.config.values["jax_platforms"] or ""
        wanted = f"JAX_PLATFORMS={asked}: no such device here" if asked else "JAX finds no device here"
        reason = (str(error).splitlines() or [""])[0].partition(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"{wanted}{f' ({reason})' if reason else ''}; there is {_known_platforms()}. Unset JAX_PLATFORMS "
            'to take what there is; pip install "jax[cuda13]" or "jax[tpu]" for a device that JAX cannot see'
        ) from None


def _known_platforms() -> str:
    """What JAX has here to reach devices with."""
    plugins = [plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")]
    if importlib.util.find_spec("libtpu"):
        plugins.append("tpu")
    return f"cpu, and a plug-in for {', '.join(sorted(plugins))}" if plugins else "cpu alone, and no plug-in"


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


def gather_over_devices(tree: T) -> T:
    """Rows (..., of this device) of each leaf -> those of the whole batch, on every device."""
    return tree if device_count() == 1 else lax.all_gather(tree, AXIS, tiled=True)


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
