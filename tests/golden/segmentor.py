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
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models import Backbone, Segmenter
from tests.golden.recipe import FOLDER

SEED = 21
CLASSES = 5
GAINS = {"published": 0.25, "one_neuron": 1.0}  # On the input of the neurons of neck and head.


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


def digest(name: str, array: np.ndarray) -> np.ndarray:
    """Some entries, the sum, the sum of squares, and the product with drawn numbers, of an array NCHW."""
    flat = array.reshape(-1)
    count = min(400, flat.size)
    places = (np.arange(count) * flat.size // count)[::10]
    return np.concatenate([flat[places], _sums(name, flat)])


def row(name: str, tensor: np.ndarray) -> np.ndarray:
    """As `digest`, of four entries of a tensor under its PyTorch name."""
    flat = tensor.reshape(-1)
    places = np.array([0, 5, 10, 15]) * flat.size // 16
    return np.concatenate([flat[places], _sums(name, flat)])


def _sums(name: str, flat: np.ndarray) -> np.ndarray:
    key = zlib.crc32(f"probe/{name}".encode())
    probe = np.random.default_rng([SEED, key]).standard_normal(flat.size)
    return np.array([flat.sum(), (flat * flat).sum(), flat @ probe])
