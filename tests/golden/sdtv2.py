"""The published Spike-driven Transformer V2's numbers on tiny nets, in `sdtv2.npz`, and what they are of.

Computed in float64 by the published code. "t1" and "t4" are the same weights at two numbers of time steps,
"t2_kd" has two heads and images that are no squares. Entries are VARIANT/..., of layers of neurons in the
order in which they fire:

* `eval/logits` (B, K); `eval/feature/STAGE`: digests of (T, B, C, h, w); `eval/rates`: shares of ones.
* `train/logits`, `train/loss` (label smoothing 0.1) and `train/rates`, the same of training. With two heads
  `train/logits_kd` is the other one's, and the loss is half that of the labels and half the cross-entropy of
  the other head with the classes of `teacher_classes`.
* `train/grad`, `train/after`: a row a gradient and a running statistic, sorted by name.

Digests and rows are those of `probes` and `baselines`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.interop import to_torch
from qsdt_jax.models import Classifier, create_model
from qsdt_jax.models.shapes import variable_shapes
from tests.golden.baselines import drawn
from tests.golden.recipe import FOLDER

BATCH, CLASSES = 4, 10
RECIPE = {
    "bn_weight": ((r"(bn2|fc2_bn|proj_conv\.1)\.weight$", 0.5, 1.5), ("", 1.0, 3.0)),
    "bias": (
        (r"[qkv]_conv\.1\.bias$", 2.2, 0.5),
        (r"(bn2|fc2_bn|proj_conv\.1)\.bias$", 0.0, 0.3),
        ("", 0.5, 0.5),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A net and what it is shown."""

    seed: int
    timesteps: int
    channels: tuple[int, int, int, int] = (16, 32, 48, 64)
    image_size: tuple[int, int] = (32, 32)
    two_heads: bool = False

    @property
    def model(self) -> Classifier:
        """In float64."""
        model = create_model(
            "sdtv2_s",
            channels=self.channels,
            timesteps=self.timesteps,
            num_classes=CLASSES,
            distillation_head=self.two_heads,
            dtype=jnp.float64,
            param_dtype=jnp.float64,
        )
        assert isinstance(model, Classifier)
        return model

    def weights(self) -> dict[str, np.ndarray]:
        """Under their published names and in PyTorch's layout."""
        empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variable_shapes(self.model))
        return {name: drawn(self.seed, name, value.shape, RECIPE) for name, value in to_torch(empty).items()}

    def test_images(self) -> np.ndarray:
        """(B, H, W, 3)."""
        return self._images(np.random.default_rng([self.seed, 9999]))

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of the training step."""
        generator = np.random.default_rng([self.seed, 1000])
        return self._images(generator), generator.integers(0, CLASSES, BATCH)

    def teacher_classes(self) -> np.ndarray:
        """(B,), what the second head learns."""
        return np.random.default_rng([self.seed, 7777]).standard_normal((BATCH, CLASSES)).argmax(1)

    def _images(self, generator: np.random.Generator) -> np.ndarray:
        return generator.standard_normal((BATCH, 3, *self.image_size)).transpose(0, 2, 3, 1)


VARIANTS = {
    "t1": Variant(seed=11, timesteps=1),
    "t4": Variant(seed=11, timesteps=4),
    "t2_kd": Variant(seed=12, timesteps=2, channels=(16, 24, 32, 40), image_size=(32, 48), two_heads=True),
}


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """The entries of the file."""
    with np.load(FOLDER / "sdtv2.npz") as file:
        return dict(file)
