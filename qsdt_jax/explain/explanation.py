"""What is told of a classifier and one image."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from qsdt_jax.answers.classes import Prediction
from qsdt_jax.explain.rasters import Raster


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What a network does with one image.

    Attributes:
      prediction: its answer.
      attention: for each block int64 (h, w), the attention that each place receives, see `explain.attention`.
      dual: whether blocks are DSSA, whose places are pooled.
      rasters: spikes of each stage.
      levels, timesteps: D and T.
      saliency: float (H, W), see `explain.gradients.saliency`; None of a bundle, which has no gradients.
      grad_cam: float (h, w) of the last stage; None likewise.
    """

    prediction: Prediction
    attention: Mapping[str, np.ndarray]
    dual: bool
    rasters: Sequence[Raster]
    levels: int
    timesteps: int
    saliency: np.ndarray | None = None
    grad_cam: np.ndarray | None = None
