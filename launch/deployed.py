"""A deployed network as a bundle holds it, ready to predict with."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from qsdt_jax.data.pipeline import Preprocess
from qsdt_jax.deploy.bundle import Bundle, read_bundle
from qsdt_jax.deploy.integer import integer_forward


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployed:
    """A bundle in its integer form; for predictions, what `launch.trained.Trained` is.

    Attributes:
      path: of the file.
      bundle: what it holds.
    """

    path: Path
    bundle: Bundle

    @property
    def title(self) -> str:
        return str(self.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.bundle.class_names

    @property
    def channels(self) -> int:
        return self.bundle.program.in_channels

    @property
    def preprocess(self) -> Preprocess:
        bundle = self.bundle
        return Preprocess(
            size=bundle.image_size,
            mean=bundle.mean,
            std=bundle.std,
            evaluation_crop_ratio=bundle.crop_ratio,
        )

    @functools.cached_property
    def _forward(self):
        return jax.jit(functools.partial(integer_forward, self.bundle.program))

    def logits(self, images: np.ndarray) -> jax.Array:
        """(B, K) of (B, H, W, C) inputs."""
        return self._forward(images)


def load_deployed(path: str | Path) -> Deployed:
    """A bundle from its file; raises UserError as `read_bundle`."""
    return Deployed(path=Path(path), bundle=read_bundle(path))
