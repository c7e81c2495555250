"""The task of object detection and instance segmentation."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.data.coverage import CELLS
from qsdt_jax.detection.anchors import anchors, inside
from qsdt_jax.detection.detections import SCORE_THRESHOLD, detect
from qsdt_jax.detection.nms import RESOLUTION
from qsdt_jax.detection.proposals import Proposals, propose
from qsdt_jax.detection.roi_align import STRIDES as POOLED_STRIDES
from qsdt_jax.detection.roi_align import roi_align
from qsdt_jax.detection.targets import BoxTargets, anchor_targets, box_targets, mask_targets
from qsdt_jax.losses.detection import box_losses, mask_loss, proposal_losses
from qsdt_jax.models.detection_fpn import STRIDES
from qsdt_jax.models.detector import BOX_SIDE, MASK_SIDE, MaskRCNN
from qsdt_jax.tasks.average_precision import AveragePrecision
from qsdt_jax.tasks.task import Batch, Variables


class Anchors(NamedTuple):
    """The anchors of each level (n, 4), and which of them propose and which are learned from, bool (B, n)."""

    boxes: list[np.ndarray]
    proposing: list[jax.Array]
    learning: list[jax.Array]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(AveragePrecision):
    """Boxes and masks of objects by the five losses of Mask R-CNN, each of weight 1.

    Attributes:
      model: the detector.
      image_shape: shape of one input of a training, (H, W, C).
      class_names: of the categories, in their order; no program depends on them.
      objects: G, places for the objects of an image in a training.
      rpn_samples: anchors of an image that its region proposal network learns from.
      roi_samples: regions of an image that the box head learns from; the mask head learns from those with an
        object, at most a quarter.
      train_proposals, test_proposals: boxes of each level before non-maximum suppression, and of an image.
      score_threshold: of a detection.
      detections: D, of an image at most.
      resolution: to which scores are rounded before each sort.
    """

    model: MaskRCNN
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...] = dataclasses.field(compare=False)
    objects: int = 100
    rpn_samples: int = 256
    roi_samples: int = 512
    train_proposals: tuple[int, int] = (2000, 1000)
    test_proposals: tuple[int, int] = (1000, 1000)
    score_threshold: float = SCORE_THRESHOLD
    detections: int = 100
    resolution: float = RESOLUTION

    @property
    def loss_title(self) -> str:
        return "sum of the losses of proposals (scores, boxes), classes, boxes and masks"

    def batch_shapes(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch of a training, with G places for objects.

        {"image": (size, H, W, C), "size": (size, 2) height and width of what is image, "index": (size,) place
        in the source, "boxes": (size, G, 4) in pixels of the array, "category": (size, G), -1 in empty
        places, "masks": uint8 (size, G, 56, 56) the share, 0..255, of each cell of the object's box that it
        covers}.
        """
        objects = size, self.objects
        return {
            "image": jax.ShapeDtypeStruct((size, *self.image_shape), jnp.float32),
            "size": jax.ShapeDtypeStruct((size, 2), jnp.int32),
            "index": jax.ShapeDtypeStruct((size,), jnp.int32),
            "boxes": jax.ShapeDtypeStruct((*objects, 4), jnp.float32),
            "category": jax.ShapeDtypeStruct(objects, jnp.int32),
            "masks": jax.ShapeDtypeStruct((*objects, CELLS, CELLS), jnp.uint8),
        }

    def init(self, key: jax.Array) -> Variables:
        """Variables of the model, drawn with `key`."""
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        return dict(self.model.init(key, images))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The sum of the losses of a batch, see `batch_shapes`; `step` plays no role.

        What is sampled of an image is a function of the key and the image's "index". No gradient passes
        through proposals.
        """
        maps, updates = self.model.apply(
            variables,
            batch["image"],
            True,
            batch["size"],
            method="pyramid",
            rngs={"drop_path": key},
            mutable=["batch_stats"],
        )
        keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index)))(batch["index"])
        scores, deltas = self._call(variables, maps, True, method="propose")
        levels = self._anchors(maps, batch)
        of_proposals = proposal_losses(
            *_joined(scores, deltas), *self._anchor_targets(keys[:, 0], levels, batch)
        )

        proposals = self._proposals(scores, deltas, levels, batch["size"], self.train_proposals)
        regions = self._box_targets(keys[:, 1], proposals, batch)
        classes, boxes = self._call(
            variables, self._pooled(maps, regions.boxes, BOX_SIDE), True, method="classify"
        )
        of_boxes = box_losses(classes, boxes, regions.category, regions.weight, regions.deltas)

        # Positive ones come first, at most a quarter of all.
        masked = jax.tree.map(lambda x: x[:, : self.roi_samples // 4], regions)
        logits = self._call(variables, self._pooled(maps, masked.boxes, MASK_SIDE), True, method="segment")
        shapes = jax.vmap(mask_targets)(batch["masks"], batch["boxes"], masked.boxes, masked.matched)
        of_masks = mask_loss(logits, masked.category, masked.positive, shapes > 0)

        names = "loss_rpn_score", "loss_rpn_box", "loss_class", "loss_box", "loss_mask"
        losses = dict(zip(names, (*of_proposals, *of_boxes, of_masks), strict=True))
        return sum(losses.values(), jnp.zeros(())), (updates["batch_stats"], losses)

    def outputs(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Objects in the pixels of the array, by descending score.

        {"boxes": (B, D, 4), "score": (B, D), 0 in empty places, "category": int32 (B, D), -1 there, "mask":
        (B, D, 28, 28) probabilities of the category}.
        """
        maps: Any = self._call(variables, batch["image"], False, batch["size"], method="pyramid")
        scores, deltas = self._call(variables, maps, method="propose")
        levels = self._anchors(maps, batch)
        proposals = self._proposals(scores, deltas, levels, batch["size"], self.test_proposals)
        classes, boxes = self._call(
            variables, self._pooled(maps, proposals.boxes, BOX_SIDE), method="classify"
        )
        of_image = functools.partial(
            detect, number=self.detections, score_threshold=self.score_threshold, resolution=self.resolution
        )
        found = jax.vmap(of_image)(proposals.boxes, proposals.valid, classes, boxes, batch["size"])
        logits = self._call(variables, self._pooled(maps, found.boxes, MASK_SIDE), method="segment")
        category = jnp.maximum(found.category, 0)[..., None, None, None]
        own = jnp.take_along_axis(logits, category, axis=-1)[..., 0]
        return {**found._asdict(), "mask": jax.nn.sigmoid(own)}

    def _call(self, variables: Variables, *args: Any, method: str) -> Any:
        return self.model.apply(variables, *args, method=method)

    def _anchors(self, maps: Sequence[jax.Array], batch: Batch) -> Anchors:
        """Those of maps.

        Anchors whose centres lie in the padding take no part. With the published geometry, whose coarsest
        maps are twice as large as their strides say, all propose, and those in the array are learned from.
        """
        shapes = [(x.shape[1], x.shape[2]) for x in maps]
        levels = list(zip(shapes, STRIDES, strict=True))
        scale, dtype = self.model.anchor_scale, maps[0].dtype
        boxes = [anchors(shape, stride, scale, dtype=dtype) for shape, stride in levels]
        sizes = batch["size"]
        published = self.model.geometry == "published"
        if published:
            sizes = jnp.broadcast_to(jnp.array(batch["image"].shape[-3:-1], sizes.dtype), sizes.shape)
        learning = [jax.vmap(functools.partial(inside, shape, stride))(sizes) for shape, stride in levels]
        return Anchors(boxes, [jnp.ones_like(x) for x in learning] if published else learning, learning)

    def _anchor_targets(self, keys: jax.Array, levels: Anchors, batch: Batch) -> tuple[jax.Array, ...]:
        """Of all anchors whether they have an object, their weights, and the deltas to it."""
        boxes, learning = np.concatenate(levels.boxes), jnp.concatenate(levels.learning, axis=1)

        def of_image(key: jax.Array, learning: jax.Array, objects: jax.Array, category: jax.Array):
            return anchor_targets(key, boxes, learning, objects, category, self.rpn_samples)

        # All images at once: in a loop over them, each device would do the work of all.
        targets = jax.vmap(of_image)(keys, learning, batch["boxes"], batch["category"])
        return targets.label > 0, targets.weight, targets.deltas

    def _proposals(
        self,
        scores: Sequence[jax.Array],
        deltas: Sequence[jax.Array],
        levels: Anchors,
        sizes: jax.Array,
        counts: tuple[int, int],
    ) -> Proposals:
        """The proposals of each image."""

        def of_image(
            scores: list[jax.Array], deltas: list[jax.Array], proposing: list[jax.Array], size: jax.Array
        ) -> Proposals:
            return propose(scores, deltas, levels.boxes, proposing, size, *counts, resolution=self.resolution)

        return jax.vmap(of_image)(list(scores), list(deltas), levels.proposing, sizes)

    def _box_targets(self, keys: jax.Array, proposals: Proposals, batch: Batch) -> BoxTargets:
        """The regions of each image that the heads learn from."""
        of_image = functools.partial(box_targets, num_classes=self.model.num_classes, number=self.roi_samples)
        return jax.vmap(of_image)(keys, proposals.boxes, proposals.valid, batch["boxes"], batch["category"])

    def _pooled(self, maps: Sequence[jax.Array], boxes: jax.Array, side: int) -> jax.Array:
        """Features of boxes (B, R, 4) at every time step, (B * T, R, side, side, c)."""
        every_step = jnp.repeat(boxes, self.model.backbone.timesteps, axis=0)
        return roi_align(maps[: len(POOLED_STRIDES)], every_step, side)


def _joined(scores: Sequence[jax.Array], deltas: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Of all levels, scores (B, n) and deltas (B, n, 4) in the order of the anchors."""
    batch = scores[0].shape[0]
    return (
        jnp.concatenate([x.reshape(batch, -1) for x in scores], axis=1),
        jnp.concatenate([x.reshape(batch, -1, 4) for x in deltas], axis=1),
    )


def class_count(variables: Variables) -> int | None:
    """Number of categories that the variables of a detector tell apart; None for those of another network."""
    head = variables["params"].get("box_head")
    return None if head is None else head["class"]["kernel"].shape[-1] - 1
