"""Cross-entropy of every pixel, of logits at half the resolution of the labels."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from qsdt_jax.devices import device_count, sum_over_devices
from qsdt_jax.layers.upsample import bilinear_upsample

Average = Literal["all", "labelled"]
FACTOR = 2  # Pixels of the labels per pixel of the logits, along each axis.
ROWS = 8  # Of logits that are enlarged together; divides what is half a multiple of 16.


def pixel_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    average: Average = "all",
    class_weights: tuple[float, ...] = (),
) -> jax.Array:
    """Mean cross-entropy of pixels, in nats, of logits enlarged bilinearly to the size of the labels.

    150 classes at 512x512 are 157 MB an image in float32, and the softmax and its gradient as much again. So
    they never exist at once: a few rows after the other are enlarged, and again in the backward pass.

    Args:
      logits: (B, H, W, K).
      labels: (B, 2 H, 2 W) whole numbers; those of K and more are ignored.
      average: "all" divides the sum by the number of all pixels, ignored ones included (published code), so
        that it adds up over parts of a batch; "labelled" by the weights of the others, or 1 where they are
        all ignored, over all devices, but of one micro-batch where steps accumulate.
      class_weights: factors on the pixels of the K classes; () for 1.

    Returns:
      A scalar.

    Raises:
      ValueError: the shapes do not fit, an average of another name, or another number of weights.
    """
    batch, height, width, classes = logits.shape
    if labels.shape != (batch, FACTOR * height, FACTOR * width):
        raise ValueError(
            f"labels of logits {logits.shape} are {(batch, FACTOR * height, FACTOR * width)}, "
            f"got {labels.shape}"
        )
    if average not in get_args(Average):
        raise ValueError(f"average must be one of {', '.join(get_args(Average))}; got {average!r}")
    if class_weights and len(class_weights) != classes:
        raise ValueError(f"class_weights must be {classes} numbers or none, got {len(class_weights)}")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    table = jnp.asarray((*(class_weights or (1,) * classes), 0), logits.dtype)
    rows = math.gcd(height, ROWS)
    strips = logits.reshape(batch, -1, rows, width, classes)
    first, last = strips[:, :, :1], strips[:, :, -1:]
    before = jnp.concatenate([first[:, :1], last[:, :-1]], axis=1)
    after = jnp.concatenate([first[:, 1:], last[:, -1:]], axis=1)
    strips = jnp.moveaxis(jnp.concatenate([before, strips, after], axis=2), 1, 0)
    own = jnp.moveaxis(labels.reshape(batch, -1, FACTOR * rows, FACTOR * width), 1, 0)

    def add(total: jax.Array, strip: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + _summed(*strip, table), None

    total, _ = jax.lax.scan(jax.checkpoint(add), jnp.zeros((), logits.dtype), (strips, own))
    if average == "all":
        return total / labels.size
    if class_weights:
        labelled = jnp.sum(_weights(labels, table))
    else:
        labelled = jnp.sum(labels < classes, dtype=jnp.int32).astype(logits.dtype)
    labelled = sum_over_devices(labelled)
    return total * device_count() / jnp.where(labelled > 0, labelled, 1)


def _weights(labels: jax.Array, table: jax.Array) -> jax.Array:
    """That of each pixel, by a table of K weights and that of ignored ones, which is last."""
    return table[jnp.minimum(labels.astype(jnp.int32), table.size - 1)]


def _summed(logits: jax.Array, labels: jax.Array, table: jax.Array) -> jax.Array:
    """The weighted sum over the pixels of labels (B, 2 H, 2 W).

    The logits (B, H + 2, W, K) have a row more above and below; `table` is that of `_weights`.
    """
    scores, classes = bilinear_upsample(logits)[:, FACTOR:-FACTOR], logits.shape[-1]
    # As a sum over classes, whose gradient is no scatter.
    is_label = labels[..., None].astype(jnp.int32) == jnp.arange(classes, dtype=jnp.int32)
    of_label = jnp.sum(jnp.where(is_label, scores, 0), axis=-1)
    losses = jax.nn.logsumexp(scores, axis=-1) - of_label
    return jnp.sum(_weights(labels, table) * losses)
