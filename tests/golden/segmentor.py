"""The published segmentor's numbers on a tiny net, in `segmentor.npz`, and what they are of.

Computed in float64 by the published code. Weights are drawn as `recipe.draw_weights` does. Two variants:
"published", whose neurons of neck and head are round(clip(x, 0, 4)) / 4, and "one_neuron", where they are
those of the backbone.

* `y`: labels (2, 48, 64), classes 0..4 and 255, which is ignored. `x_check`: sum and first entries of images.
* `eval/featureI`, `VARIANT/eval/neckI`, `VARIANT/eval/logits`, the same of "train" and `.../full`, the logits
  at the size of the images: digests (`digest`).
* `VARIANT/train/loss`: mean over all pixels, over labelled pixels. `VARIANT/train/grad` (of the first) and
  `VARIANT/train/after` (running statistics after one step): a row a tensor, sorted by name (`row`).
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models import Backbone, Segmenter
from tests.golden import probes
from tests.golden.recipe import FOLDER

SEED = 21
CLASSES = 5
GAINS = {"published": 0.25, "one_neuron": 1.0}  # On the input of the neurons of neck and head.

digest = functools.partial(probes.digest, SEED)
row = functools.partial(probes.row, SEED)


def segmentor(variant: str, **backbone: Any) -> Segmenter:
    """The net of the file, in float64."""
    fields: dict[str, Any] = {
        "channels": (16, 32, 48, 64),
        "depth": 4,
        "num_heads": 8,
        "bits_rules": (BitsRule(pattern=r"(fpn|seg_head)/.*", bits=32),),
        "dtype": jnp.float64,
        "param_dtype": jnp.float64,
        **backbone,
    }
    return Segmenter(Backbone(**fields), CLASSES, fpn_channels=8, neuron_input_gain=GAINS[variant])


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """The entries of the file."""
    with np.load(FOLDER / "segmentor.npz") as file:
        return dict(file)


def images() -> np.ndarray:
    """(2, 48, 64, 3)."""
    x = np.random.default_rng([SEED, 777]).standard_normal((2, 3, 48, 64))
    check = [x.sum(), *x.reshape(-1)[:4]]
    np.testing.assert_allclose(check, golden()["x_check"], rtol=1e-12)
    return x.transpose(0, 2, 3, 1)
