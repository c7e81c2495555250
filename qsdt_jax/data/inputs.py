"""From the batches of the host to the inputs of a network, on the device.

Images come as bytes, a quarter of what the inputs take, and become inputs where they are used. The pixels are
those of `images.normalize` bit for bit, on every device and whatever the compiler makes of a division: a byte
has 256 values, so each channel has a table of its own.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.data.augment import ERASED_BOX, NOISE_KEY
from qsdt_jax.data.dense.framing import SIZE
from qsdt_jax.data.images import Normalization
from qsdt_jax.inside import inside

KEY_KIND = "threefry2x32"  # Gives a row its noise whatever else is in the batch and wherever it lies.


@functools.partial(jax.jit, static_argnames="normalization")
def to_inputs(batch: Mapping[str, Any], normalization: Normalization | None) -> dict[str, jax.Array]:
    """The batch with its images as a network takes them; what are inputs already stays as it is.

    Args:
      batch: {"image": (B, H, W, C)} and whatever else. Bytes are normalised, and then a box of each row is
        erased if the batch says so, see `augment.draw_erasing`. Where the batch has "size" (B, 2), height and
        width of what is valid of each image, from the top left on, the rest becomes 0. Floats are inputs,
        e.g. frames of events.
      normalization: of bytes.

    Returns:
      {"image": float32 (B, H, W, C)} and the rest of the batch.

    Raises:
      ValueError: bytes, and no normalisation; floats, and a box to be erased; images of another type.
    """
    batch = dict(batch)
    box, key = batch.pop(ERASED_BOX, None), batch.pop(NOISE_KEY, None)
    image = batch.get("image")
    if image is None:
        return batch
    if image.dtype != jnp.uint8:
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                f"the images are {image.dtype} {image.shape}; expected uint8, or floats as inputs"
            )
        if box is not None:
            raise ValueError(f"the images are {image.dtype}, inputs already; only bytes are erased")
        return batch
    if normalization is None:
        raise ValueError("the images are bytes; expected the normalisation that makes inputs of them")
    image = _looked_up(image, normalization)
    if box is not None and key is not None:
        image = erase(image, box, key)
    if SIZE in batch:
        height, width = image.shape[1:3]
        image = jnp.where(inside(batch[SIZE], (height, width))[..., None], image, 0)
    batch["image"] = image
    return batch


def _looked_up(image: jax.Array, normalization: Normalization) -> jax.Array:
    channels = image.shape[-1]
    table = jnp.asarray(normalization.table(channels).reshape(-1))
    return table.at[image.astype(jnp.int32) * channels + jnp.arange(channels)].get(mode="promise_in_bounds")


def erase(images: jax.Array, boxes: jax.Array, keys: jax.Array) -> jax.Array:
    """Standard normal noise in a box of each image, the "pixel" mode of timm (Zhong et al. 2020).

    Args:
      images: (B, H, W, C), normalised; the noise has the mean and the deviation of their data set.
      boxes: (B, 4), (top, left, height, width) in pixels; of height 0 for none.
      keys: uint32 (B, 2), of the noise.
    """

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.wrap_key_data(key, impl=KEY_KIND), images.shape[1:], images.dtype)

    top, left, height, width = (side[:, None, None, None] for side in boxes.T)
    row, column = jnp.arange(images.shape[1])[:, None, None], jnp.arange(images.shape[2])[:, None]
    within = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return jnp.where(within, jax.vmap(noise)(keys), images)
