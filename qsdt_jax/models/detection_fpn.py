"""The spiking feature pyramid of detection: maps of one width at five strides."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from qsdt_jax.detection.inference import Geometry
from qsdt_jax.layers.downsample import Subsample
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.spiking_conv import SpikingConv, xavier_uniform
from qsdt_jax.layers.upsample import NearestUpsample


class DetectionFPN(nn.Module):
    """The neck of Mask R-CNN (Lin et al., 2017), on maps of strides 4, 8, 16 and 16.

    From each map a lateral one, neuron -> 1x1 conv. The last is added to the third, and from there down each,
    enlarged to nearest neighbours, to the next finer. Then neuron -> 3x3 conv on each. The convolution on the
    last has stride 2 with the geometry "true", so that its result has stride 32. With "published" it has
    stride 1, and its result and the next have strides 16 and 32 in fact, while anchors and pooling take them
    for 32 and 64. The fifth map is every second pixel of the fourth.

    Attributes:
      features: channels of the results.
      numerics: shared numerical choices.
      neuron_input_gain: of every neuron, see `models.detector.MaskRCNN`.
      geometry: "true" or "published".
      remat: of each unit, see `layers.remat`.
    """

    features: int
    numerics: Numerics
    neuron_input_gain: float = 1.0
    geometry: Geometry = "true"
    remat: Remat = "none"

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> list[jax.Array]:
        """Four maps (N, h, w, c) -> five (N, h, w, features), fine to coarse; odd sizes are rounded up."""

        def unit(x: jax.Array, name: str, kernel_size: int, stride: int = 1) -> jax.Array:
            conv = SpikingConv(
                self.features,
                self.numerics,
                kernel_size=kernel_size,
                stride=stride,
                use_bias=True,
                batch_norm=False,
                input_gain=self.neuron_input_gain,
                gain=1 / self.neuron_input_gain,
                kernel_init=xavier_uniform,
                name=name,
            )
            return call_block(self.remat, conv, x, train)

        merged = [unit(x, f"lateral{i}", 1) for i, x in enumerate(maps)]
        merged[2] = merged[2] + merged[3]
        for i in (1, 0):
            merged[i] = merged[i] + NearestUpsample(name=f"upsample{i}")(merged[i + 1])
        results = [unit(x, f"output{i}", 3) for i, x in enumerate(merged[:3])]
        coarse = unit(merged[3], "output3", 3, stride=2 if self.geometry == "true" else 1)
        return [*results, coarse, Subsample(name="subsample")(coarse)]
