"""Mixup and cutmix of a batch on the device, as timm's Mixup does in its batch mode."""

import jax
import jax.numpy as jnp

from qsdt_jax.devices import reversed_rows


def mix_batch(
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    num_classes: int,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image with a partner, and their labels in the same shares.

    Mixup (Zhang et al. 2018) blends the two images; cutmix (Yun et al. 2019) pastes a box of the partner. The
    whole batch is mixed one way, by one share lambda ~ Beta(alpha, alpha), and the partner of image i is
    image B - 1 - i. Where both ways are on, a fair coin decides.

    The batch is what this function is given: with gradient accumulation one micro-batch, with several devices
    all their rows, so the result does not depend on the number of devices.

    Smoothing of labels commutes with their mixing: a loss that smooths what comes out of here has the targets
    of timm, which smooths first.

    Args:
      images: float (B, ..., H, W, C).
      labels: (B,) class indices.
      key: decides the way, lambda and the box.
      num_classes: K.
      mixup_alpha: of mixup's Beta distribution; 0 turns mixup off.
      cutmix_alpha: the same of cutmix.

    Returns:
      Images of the same shape, and (B, K) class probabilities.

    Raises:
      ValueError: an alpha is negative, or both are 0.
    """
    if min(mixup_alpha, cutmix_alpha) < 0 or mixup_alpha == cutmix_alpha == 0:
        raise ValueError(f"alphas must be at least 0 and not both 0, got {mixup_alpha} and {cutmix_alpha}")
    way_key, share_key, box_key = jax.random.split(key, 3)
    both = mixup_alpha > 0 and cutmix_alpha > 0
    cut = jax.random.bernoulli(way_key) if both else jnp.asarray(cutmix_alpha > 0)
    alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
    share = jax.random.beta(share_key, alpha, alpha, dtype=images.dtype)
    height, width = images.shape[-3:-1]
    outside, outside_share = outside_box(box_key, height, width, share)

    kept = jnp.where(cut, outside.astype(images.dtype), share)[..., None]
    share = jnp.where(cut, outside_share, share)
    targets = jax.nn.one_hot(labels, num_classes, dtype=images.dtype)
    # Ones and zeros blend exactly, so cutmix leaves every pixel as it was.
    return _blend(images, kept), _blend(targets, share)


def outside_box(key: jax.Array, height: int, width: int, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A cutmix box: 1 - share of the area, centred anywhere in the image and cut off at its borders.

    Args:
      key: gives the centre.
      height, width: H and W of the image.
      share: scalar in [0, 1].

    Returns:
      (H, W), true outside the box, and the share of the image that is really outside.
    """
    inside, lengths = [], []
    for axis_key, length in zip(jax.random.split(key), (height, width), strict=True):
        half = jnp.floor(length * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        centre = jax.random.randint(axis_key, (), 0, length)
        first, last = jnp.maximum(centre - half, 0), jnp.minimum(centre + half, length)
        places = jnp.arange(length)
        inside.append((places >= first) & (places < last))
        lengths.append(last - first)
    outside = ~(inside[0][:, None] & inside[1])
    area = (lengths[0] * lengths[1]).astype(share.dtype)
    return outside, 1 - area / (height * width)


def _blend(rows: jax.Array, share: jax.Array) -> jax.Array:
    return share * rows + (1 - share) * reversed_rows(rows)
