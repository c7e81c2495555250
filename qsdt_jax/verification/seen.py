"""The images that a network is verified on: files, drawn ones, or arrays of somebody else."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from qsdt_jax.answers.answering import in_batches
from qsdt_jax.answers.pictures import Picture, shown
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.network import timesteps_of
from qsdt_jax.data.images import IMAGE_SUFFIXES
from qsdt_jax.data.preprocess import ImagePreprocessing
from qsdt_jax.errors import UserError
from qsdt_jax.loading.opened import Network
from qsdt_jax.tasks.task import Batch

SEED = 0
OCTAVES = (1, 2, 4, 8, 16)  # Pixels of the coarsest drawing are sides divided by these.


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files among some paths, and the image files in folders among them, which are sorted.

    Raises:
      UserError: a folder without image files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise UserError(
                    f"{path}: a folder without image files; expected {' or '.join(IMAGE_SUFFIXES[:5])}"
                )
            found += inside
        else:
            found.append(path)
    return found


def batches_of(network: Network, images: Sequence[Picture]) -> list[Batch]:
    """Images as inputs, {"image", "mask"} and "size" where they are padded.

    Raises:
      UserError: as `Network.predict`.
    """
    preprocess = network.preprocess
    views = list(shown(images, preprocess, network.channels))
    given = (inputs for _, inputs in in_batches(views, lambda batch: batch, preprocess.normalization))
    return [masked(inputs) for inputs in given]


def masked(inputs: Batch) -> Batch:
    """Inputs of which none is padding."""
    return {**inputs, "mask": jnp.ones(len(inputs["image"]), jnp.int32)}


def drawn_batches(network: Network, count: int) -> list[Batch]:
    """As `batches_of`, of drawn images; of a network of events frames (count, T, H, W, C) of drawn counts."""
    height, width = network.config.data.image_size
    generator = np.random.default_rng(SEED)
    if isinstance(build_preprocess(network.config), ImagePreprocessing):
        draw = functools.partial(drawn_picture, generator, (height, width), network.channels)
        return batches_of(network, [draw() for _ in range(count)])
    shape = (count, timesteps_of(network.model), height, width, network.channels)
    return [masked({"image": jnp.asarray(generator.poisson(0.5, shape), jnp.float32)})]


def drawn_picture(generator: np.random.Generator, size: tuple[int, int], channels: int) -> np.ndarray:
    """uint8 (H, W, channels) of smooth noise: drawings of several coarsenesses, the coarser the stronger."""
    height, width = size
    total = np.zeros((height, width, channels))
    for octave in OCTAVES:
        coarse = [max(1, side // octave) for side in size]
        for channel in range(channels):
            noise = generator.standard_normal(coarse, dtype=np.float32)
            enlarged: Any = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
            total[..., channel] += octave**0.5 * np.asarray(enlarged)
    return np.clip(128 + 50 * total / total.std(), 0, 255).astype(np.uint8)
