"""Images and frames as every network with time steps takes them."""

import jax
import jax.numpy as jnp


def frames_of(images: jax.Array, timesteps: int, channels: int) -> jax.Array:
    """The time steps of each image next to each other.

    Args:
      images: (B, H, W, C), shown in every time step, or (B, T, H, W, C) frames.
      timesteps: T.
      channels: C of the network.

    Returns:
      (B * T, H, W, C).

    Raises:
      ValueError: the images have another rank, channel count or frame count.
    """
    if images.ndim not in (4, 5):
        raise ValueError(f"images have shape (B, H, W, C) or (B, T, H, W, C), got {images.shape}")
    if images.ndim == 4:
        images = jnp.repeat(images[:, None], timesteps, axis=1)
    if images.shape[-1] != channels:
        raise ValueError(f"the network takes {channels} channels, got {images.shape[-1]}")
    if images.shape[1] != timesteps:
        raise ValueError(f"the network takes {timesteps} time steps, got {images.shape[1]}")
    return images.reshape(-1, *images.shape[2:])
