"""The network of semantic segmentation: Semantic FPN (Kirillov et al., 2019) on the spiking backbone."""

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import linen as nn

from qsdt_jax.layers.bits_rules import check_rules
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.spiking_conv import SpikingConv
from qsdt_jax.layers.upsample import BilinearUpsample
from qsdt_jax.models.backbone import Backbone, Stage
from qsdt_jax.models.classifier import mean_over_time
from qsdt_jax.models.fpn import FPN
from qsdt_jax.models.parts import Parts

TAPS: tuple[Stage, ...] = ("stem", "stage1", "stage2", "stage4")  # At strides 2, 4, 8 and 16.
OUTPUT_LAYER = "seg_head/classifier"

classifier_init = nn.initializers.normal(0.01)


class SemanticHead(nn.Module):
    """Branches that bring each map to the stride of the first, their sum, and the classes of each pixel.

    Branch i has max(i, 1) units neuron -> 3x3 conv -> BN. A bilinear enlargement by 2 follows each unit,
    except in the first branch. The sum goes through a neuron and a 1x1 convolution with bias (published
    code).

    Attributes:
      num_classes: outputs of each pixel.
      features: channels of the branches.
      numerics: shared numerical choices.
      input_gain: of every neuron, see `layers.spiking.SpikingNeuron`.
      remat: of each unit, see `layers.remat`.
    """

    num_classes: int
    features: int
    numerics: Numerics
    input_gain: float = 1.0
    remat: Remat = "none"

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> jax.Array:
        """Maps (N, h, w, c), each half as fine as the one before -> logits (N, h, w, K) at the first."""
        y = self._branch(maps[0], 0, train)
        for i, x in enumerate(maps[1:], start=1):
            y = y + self._branch(x, i, train)
        spikes = SpikingNeuron(self.numerics, input_gain=self.input_gain, name="neuron")(y)
        classifier = QConv(
            self.num_classes,
            self.numerics,
            use_bias=True,
            kernel_init=classifier_init,
            bias_init=nn.initializers.zeros,
            name="classifier",
        )
        return classifier(spikes, train).real

    def _branch(self, x: jax.Array, index: int, train: bool) -> jax.Array:
        for j in range(max(index, 1)):
            name = f"branch{index}_{j}"
            unit = SpikingConv(self.features, self.numerics, input_gain=self.input_gain, name=name)
            x = call_block(self.remat, unit, x, train)
            if index:
                x = BilinearUpsample(name=f"upsample{index}_{j}")(x)
        return x


class Segmenter(nn.Module):
    """A backbone, a pyramid on four of its stages ("fpn"), and a head ("seg_head").

    Their variables stand beside the backbone's, as the head's of `Classifier`: the same backbone in another
    network has the same names.

    Attributes:
      backbone: gives the features.
      num_classes: outputs of each pixel.
      fpn_channels: width of neck and head.
      neuron_input_gain: of every neuron of neck and head, see `layers.spiking.SpikingNeuron`; 1/4 with the
        published checkpoints.
    """

    PARTS: ClassVar[Parts] = Parts(beside=("fpn", "seg_head"), of_classes=("seg_head/classifier",))

    backbone: Backbone
    num_classes: int = 150
    fpn_channels: int = 128
    neuron_input_gain: float = 1.0

    def setup(self):
        nn.share_scope(self, self.backbone)
        for name in ("num_classes", "fpn_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.neuron_input_gain > 0:
            raise ValueError(f"neuron_input_gain must be positive, got {self.neuron_input_gain}")
        numerics, gain, remat = self.backbone.numerics, self.neuron_input_gain, self.backbone.remat
        self.fpn = FPN(self.fpn_channels, numerics, gain, remat)
        self.seg_head = SemanticHead(self.num_classes, self.fpn_channels, numerics, gain, remat)

    def __call__(self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None) -> jax.Array:
        """Class scores of each second pixel along both axes, averaged over the time steps.

        Args:
          images: (B, H, W, C) or (B, T, H, W, C), H and W multiples of 16.
          train: uses batch statistics and updates the running ones (collection "batch_stats"); drop
            path needs the random stream "drop_path".
          sizes: (B, 2) height and width of what is image, see `Backbone.features`.

        Returns:
          (B, H / 2, W / 2, num_classes) logits.

        Raises:
          ValueError: the images do not fit the network; or, when variables are drawn, a bits rule fits no
            layer.
        """
        logits = self.seg_head(self.pyramid(images, train, sizes), train)
        if self.is_initializing():
            check_rules(self.backbone.bits_rules, self.variables["params"])
        return self.over_time(logits)

    def features(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> dict[Stage, jax.Array]:
        """See `Backbone.features`."""
        return self.backbone.features(images, train, sizes)

    def pyramid(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> list[jax.Array]:
        """The maps that the head takes, (B * T, h, w, fpn_channels) at strides 2, 4, 8 and 16."""
        features = self.backbone.features(images, train, sizes)
        return self.fpn([features[stage] for stage in TAPS], train)

    def over_time(self, logits: jax.Array) -> jax.Array:
        """Mean over the time steps, (B * T, h, w, K) -> (B, h, w, K)."""
        return mean_over_time(logits.reshape(-1, self.backbone.timesteps, *logits.shape[1:]))
