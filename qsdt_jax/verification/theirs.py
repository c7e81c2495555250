"""What somebody else's program gave for some images, read from a file of NumPy arrays."""

import dataclasses
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.assemble.network import timesteps_of
from qsdt_jax.errors import UserError
from qsdt_jax.loading.opened import Network
from qsdt_jax.nearest import nearest
from qsdt_jax.tasks.task import Batch
from qsdt_jax.verification.seen import batches_of, masked

IMAGES, LOGITS = "images", "logits"


@dataclasses.dataclass(frozen=True)
class Theirs:
    """Arrays of somebody else.

    Attributes:
      path: where they were read.
      images: as they are in the file.
      logits: (B, K), or of pixels.
      counts: of neurons by their names here, shaped as in the file.
    """

    path: str
    images: np.ndarray
    logits: np.ndarray
    counts: Mapping[str, np.ndarray]

    def batch(self, network: Network) -> Batch:
        """The images as inputs: bytes as images, floats as inputs that are normalised already.

        Raises:
          UserError: they are none of this network.
        """
        images, channels = self.images, network.channels
        if images.ndim >= 4 and images.shape[-1] != channels == images.shape[-3]:
            images = np.moveaxis(images, -3, -1)
        timesteps = timesteps_of(network.model)
        fits = images.ndim == 4 or (images.ndim == 5 and images.shape[1] == timesteps)
        if not fits or images.shape[-1] != channels or not len(images):
            raise UserError(
                f"{self.path}: {IMAGES!r} are {self.images.shape}; expected (B, H, W, {channels}) or "
                f"(B, {channels}, H, W), or frames of T={timesteps}, (B, T, ...)"
            )
        if images.dtype == np.uint8 and images.ndim == 4:
            batches = batches_of(network, list(images))
            return {name: jnp.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        if not np.issubdtype(images.dtype, np.floating):
            raise UserError(
                f"{self.path}: {IMAGES!r} are {images.dtype}; expected uint8, or floats as inputs"
            )
        return masked({"image": jnp.asarray(images, jnp.float32)})

    def logits_like(self, own: np.ndarray) -> np.ndarray:
        """The logits; raises UserError where they have another shape than the network's own."""
        if self.logits.shape != own.shape:
            raise UserError(f"{self.path}: {LOGITS!r} are {self.logits.shape}; expected {own.shape}")
        return self.logits

    def counts_like(self, own: Mapping[str, np.ndarray], timesteps: int) -> dict[str, np.ndarray]:
        """The counts in the layout of the network's own, (B * T, ..., C).

        Channels may come before the pixels, and time steps before images. Where a shape says nothing of the
        order, the order that is nearer to the network's own is taken.

        Raises:
          UserError: a name that no neuron has, numbers that are no counts, or another shape.
        """
        found = {}
        for given, array in self.counts.items():
            name = given if given in own else given.replace(".", "/")
            if name not in own:
                raise UserError(
                    f"{self.path}: no neuron is called {given!r}{nearest(name, list(own))}; expected "
                    f"{IMAGES!r}, {LOGITS!r}, and counts by the names of neurons, as {next(iter(own))!r}"
                )
            if np.any(array != np.round(array)):
                other = float(np.ravel(array)[np.argmax(np.ravel(array != np.round(array)))])
                raise UserError(f"{self.path}: {given!r} has {other:g}; expected counts of spikes, 0, 1, ...")
            orders = list(_orders(array, own[name].shape, timesteps))
            if not orders:
                raise UserError(f"{self.path}: {given!r} is {array.shape}; expected {own[name].shape}")
            found[name] = min(orders, key=lambda order: np.sum(order != own[name]))
        return found


def _orders(array: np.ndarray, shape: tuple[int, ...], timesteps: int) -> Iterator[np.ndarray]:
    """The array in a shape (B * T, ..., C), in each order of axes that its own shape allows."""
    rows, channels = shape[0], shape[-1]
    images = rows // timesteps
    if array.size != np.prod(shape):
        return
    by_row = []
    if array.shape[0] == rows:
        by_row.append(array)
    if array.shape[:2] == (images, timesteps):
        by_row.append(array.reshape(rows, *array.shape[2:]))
    if array.shape[0] == rows or array.shape[:2] == (timesteps, images):  # Time steps before images.
        inside = array.shape[1:] if array.shape[0] == rows else array.shape[2:]
        by_row.append(array.reshape(timesteps, images, *inside).swapaxes(0, 1).reshape(rows, *inside))
    for ordered in by_row:
        if ordered.shape[-1] == channels:
            yield ordered.reshape(shape)
        if ordered.shape[1] == channels:
            yield np.moveaxis(ordered, 1, -1).reshape(shape)


def read_theirs(path: str | Path) -> Theirs:
    """Reads a file of `numpy.savez(path, images=..., logits=..., **counts)`; nothing in it is run.

    Raises:
      UserError: the file cannot be read, or lacks images or logits.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected arrays of numpy.savez (.npz)") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: no arrays of numpy.savez ({reason}); expected a .npz file") from None
    for name in (IMAGES, LOGITS):
        if name not in arrays:
            raise UserError(
                f"{path}: expected arrays {IMAGES!r} and {LOGITS!r}, found {', '.join(arrays) or 'none'}"
            )
    counts = {name: array for name, array in arrays.items() if name not in (IMAGES, LOGITS)}
    return Theirs(str(path), arrays[IMAGES], arrays[LOGITS], counts)
