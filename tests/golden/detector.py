"""The published detector's numbers on a tiny net, in `detector.npz`, and what they are of.

Computed in float64 by the published code, with the strides that it declares (`geometry="published"`). Weights
are drawn as `recipe.draw_weights` does. Two variants: "published_sr0", whose neurons of neck and heads are
round(clip(x, 0, 4)), and "one_neuron_sr2", where they are those of the backbone. Of the first there is, in
training, all up to the proposals (it pools with an adaptive number of samples, the second with 2 x 2 a cell).

* `gtB/boxes`, `labels`, `masks` of the two images, of which the second is narrower than the batch:
  `img_shape`. `ori_shape`: of the images before they were enlarged by 1.25.
* Nothing is random: the samplers take every candidate. Of the two coarsest levels only cells within the
  declared stride take part in the loss; proposals come from all cells.
* `train/featureI`, `VARIANT/train/neckI`, `rpn_scoreI`, `rpn_deltaI`, `box_features`, `box_scores`,
  `box_deltas`, `mask_features`, `mask_logits`, `VARIANT/eval/neckI`, `mask_logitsB`: digests, see `probes`.
* `loss_rpn_levels` (2, 5); `losses`: RPN scores and boxes, classes, boxes, masks; `grad` of their sum, a row
  a tensor in order of names; `train/after`: running statistics after one step.
* `proposalsB`, `roisB`: every tenth row, then the sum of each column. `roi_labelsB`, `roi_gtB`:
  positives first, of which there are `roi_positivesB`. `mask_targets`: packed bits.
* `detectionsB` (100, 6): box in pixels of `ori_shape`, score, class; `mask_areasB`; `masksB`: packed bits of
  the first 20 masks.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models import Backbone, MaskRCNN
from tests.golden import probes
from tests.golden.recipe import FOLDER

SEED = 22
CLASSES = 3
GAINS = {"published_sr0": 0.25, "one_neuron_sr2": 1.0}  # On the input of the neurons of neck and heads.

digest = functools.partial(probes.digest, SEED)
row = functools.partial(probes.row, SEED)


def detector(variant: str, **backbone: Any) -> MaskRCNN:
    """The net of the file, in float64."""
    fields: dict[str, Any] = {
        "channels": (16, 32, 48, 64),
        "depth": 4,
        "num_heads": 8,
        "bits_rules": (BitsRule(pattern=r"(det_fpn|rpn|box_head|mask_head)/.*", bits=32),),
        "dtype": jnp.float64,
        "param_dtype": jnp.float64,
        **backbone,
    }
    return MaskRCNN(
        Backbone(**fields),
        CLASSES,
        fpn_channels=16,
        box_features=24,
        neuron_input_gain=GAINS[variant],
        geometry="published",
    )


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """The entries of the file."""
    with np.load(FOLDER / "detector.npz") as file:
        return dict(file)


def images() -> np.ndarray:
    """(2, 96, 128, 3)."""
    x = np.random.default_rng([SEED, 777]).standard_normal((2, 3, 96, 128))
    check = [x.sum(), *x.reshape(-1)[:4]]
    np.testing.assert_allclose(check, golden()["x_check"], rtol=1e-12)
    return x.transpose(0, 2, 3, 1)


def thinned(rows: np.ndarray) -> np.ndarray:
    """Every tenth row, and the sums of the columns."""
    return np.concatenate([rows[::10], rows.sum(0, keepdims=True)])
