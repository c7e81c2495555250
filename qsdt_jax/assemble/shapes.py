"""The shapes of inputs, as a configuration has them."""

import ml_collections

from qsdt_jax.data.preprocess import Preprocessing


def input_shape(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Of one input: (H, W, C) of an image, (T, H, W, C) of the frames of events."""
    frame = (*image_size(config), config.data.channels)
    return (config.model.timesteps, *frame) if config.data.events else frame


def largest_input(shape: tuple[int, ...], preprocess: Preprocessing) -> tuple[int, ...]:
    """Of the inputs of an evaluation the largest, as far as it is known; `shape` is that of training."""
    largest = None if preprocess.buckets is None else preprocess.buckets.largest
    return shape if largest is None else (*largest, shape[-1])


def image_size(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """Height and width of an input in pixels."""
    height, width = config.data.image_size
    return height, width
