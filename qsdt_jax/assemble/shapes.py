"""The shape of an input, as a configuration has it."""

import ml_collections


def input_shape(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Of one input: (H, W, C) of an image, (T, H, W, C) of the frames of events."""
    frame = (*image_size(config), config.data.channels)
    return (config.model.timesteps, *frame) if config.data.events else frame


def image_size(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """Height and width of an input in pixels."""
    height, width = config.data.image_size
    return height, width
