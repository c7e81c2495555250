"""The network of object detection and instance segmentation: Mask R-CNN (He et al., 2017), spiking."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.detection.inference import Geometry, Networks
from qsdt_jax.detection.regions import BOX_SIDE, MASK_SIDE
from qsdt_jax.layers.bits_rules import check_rules
from qsdt_jax.models.backbone import Backbone, Stage
from qsdt_jax.models.box_head import BoxHead
from qsdt_jax.models.classifier import mean_over_time
from qsdt_jax.models.detection_fpn import DetectionFPN
from qsdt_jax.models.mask_head import MaskHead
from qsdt_jax.models.parts import Parts
from qsdt_jax.models.rpn import RPN

TAPS: tuple[Stage, ...] = ("stage1", "stage2", "stage3", "stage4")  # At strides 4, 8, 16 and 16.
OUTPUT_LAYERS = ("rpn/score", "rpn/delta", "box_head/class", "box_head/box", "mask_head/classifier")


class MaskRCNN(nn.Module):
    """A backbone, a pyramid on its stages ("det_fpn"), and the heads "rpn", "box_head" and "mask_head".

    Their variables stand beside the backbone's, as the head's of `Classifier`. What lies between the heads,
    anchors, proposals, pooling, has no weights and is in `qsdt_jax.detection`.

    With T time steps features are pooled at every step, of the same boxes, and all outputs are means over the
    steps. A map has N = B * T rows, the steps of an image next to each other.

    Attributes:
      backbone: gives the features.
      num_classes: K, without the background.
      fpn_channels: width of the pyramid, the region proposal network and the mask head.
      box_features: of the hidden layers of the box head.
      neuron_input_gain: g of every neuron of neck and heads. With n(u) the backbone's neuron, one gives
        n(g u) / g. 1/4 with the published checkpoints, whose neurons are round(clip(x, 0, 4)).
      final_neuron: whether a neuron stands before class and box, see `models.box_head.BoxHead`.
      geometry: whether the two coarsest maps have the strides that anchors and pooling take them for,
        "true", or half of them, "published"; see `models.detection_fpn.DetectionFPN`.
      anchor_scale: side of a square anchor in strides, to which what the network gives relates.
    """

    PARTS: ClassVar[Parts] = Parts(
        beside=("det_fpn", "rpn", "box_head", "mask_head"),
        of_classes=("box_head/class", "box_head/box", "mask_head/classifier"),
    )

    backbone: Backbone
    num_classes: int = 80
    fpn_channels: int = 256
    box_features: int = 1024
    neuron_input_gain: float = 1.0
    final_neuron: bool = False
    geometry: Geometry = "true"
    anchor_scale: float = 8.0

    def setup(self):
        nn.share_scope(self, self.backbone)
        for name in ("num_classes", "fpn_channels", "box_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("neuron_input_gain", "anchor_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.geometry not in get_args(Geometry):
            raise ValueError(
                f"geometry must be one of {', '.join(get_args(Geometry))}; got {self.geometry!r}"
            )
        numerics, gain, remat = self.backbone.numerics, self.neuron_input_gain, self.backbone.remat
        width, classes = self.fpn_channels, self.num_classes
        self.det_fpn = DetectionFPN(width, numerics, gain, self.geometry, remat)
        self.rpn = RPN(width, numerics, gain, remat)
        self.box_head = BoxHead(classes, self.box_features, numerics, gain, self.final_neuron)
        self.mask_head = MaskHead(classes, width, numerics, gain, remat)

    def __call__(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """What `propose` gives of the pyramid; when variables are drawn, all heads are called.

        Raises:
          ValueError: the images do not fit the network; or, when variables are drawn, a bits rule fits no
            layer.
        """
        maps = self.pyramid(images, train, sizes)
        proposed = self.propose(maps, train)
        if self.is_initializing():
            regions = (maps[0].shape[0], 1)
            for head, side in ((self.classify, BOX_SIDE), (self.segment, MASK_SIDE)):
                head(jnp.zeros((*regions, side, side, self.fpn_channels), maps[0].dtype), train)
            check_rules(self.backbone.bits_rules, self.variables["params"])
        return proposed

    def features(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> dict[Stage, jax.Array]:
        """See `Backbone.features`."""
        return self.backbone.features(images, train, sizes)

    def pyramid(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> list[jax.Array]:
        """The maps of which regions are proposed and pooled.

        Args:
          images: (B, H, W, C) or (B, T, H, W, C), H and W multiples of 16.
          train: uses batch statistics and updates the running ones (collection "batch_stats"); drop
            path needs the random stream "drop_path".
          sizes: (B, 2) height and width of what is image, see `Backbone.features`.

        Returns:
          Five of (N, h, w, fpn_channels) at strides 4, 8, 16, 32 and 64, sizes rounded up.
        """
        features = self.backbone.features(images, train, sizes)
        return self.det_fpn([features[stage] for stage in TAPS], train)

    def propose(
        self, maps: Sequence[jax.Array], train: bool = False
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Of maps (N, h, w, c), by level, logits (B, h, w, 3) and deltas (B, h, w, 3, 4)."""
        found = [self.rpn(x, train) for x in maps]
        return [self.over_time(scores) for scores, _ in found], [
            self.over_time(deltas) for _, deltas in found
        ]

    def classify(self, features: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Of features of regions (N, R, 7, 7, c), logits (B, R, K + 1) and deltas (B, R, K, 4)."""
        count, timesteps = features.shape[1], self.backbone.timesteps
        scores, deltas = self.box_head(by_region(features, timesteps), train)
        return of_regions(scores, count, timesteps), of_regions(deltas, count, timesteps)

    def segment(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Of features of regions (N, R, 14, 14, c), logits of their masks (B, R, 28, 28, K)."""
        count, timesteps = features.shape[1], self.backbone.timesteps
        return of_regions(self.mask_head(by_region(features, timesteps), train), count, timesteps)

    def over_time(self, steps: jax.Array) -> jax.Array:
        """Mean over the time steps, (B * T, ...) -> (B, ...)."""
        return mean_of_steps(steps, self.backbone.timesteps)


def networks_of(call: Callable[..., Any]) -> Networks:
    """The networks of a detector in evaluation; `call(method, ...)` runs one of MaskRCNN's methods."""
    return Networks(
        pyramid=lambda images, sizes: call("pyramid", images, sizes=sizes),
        propose=functools.partial(call, "propose"),
        classify=functools.partial(call, "classify"),
        segment=functools.partial(call, "segment"),
    )


def by_region(features: jax.Array, timesteps: int) -> jax.Array:
    """(B * T, R, ...) -> (B * R * T, ...): the time steps of a region next to each other."""
    steps = features.reshape(-1, timesteps, *features.shape[1:])
    return steps.swapaxes(1, 2).reshape(-1, *features.shape[2:])


def of_regions(steps: jax.Array, count: int, timesteps: int) -> jax.Array:
    """The mean over the time steps of each of `count` regions, (B * R * T, ...) -> (B, R, ...)."""
    mean = mean_of_steps(steps, timesteps)
    return mean.reshape(-1, count, *mean.shape[1:])


def mean_of_steps(steps: jax.Array, timesteps: int) -> jax.Array:
    """(B * T, ...) -> (B, ...)."""
    return mean_over_time(steps.reshape(-1, timesteps, *steps.shape[1:]))
