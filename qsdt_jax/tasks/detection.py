"""The task of object detection and instance segmentation."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.data.dense.coverage import CELLS
from qsdt_jax.detection.detections import SCORE_THRESHOLD
from qsdt_jax.detection.inference import Settings, find_objects
from qsdt_jax.detection.nms import RESOLUTION
from qsdt_jax.detection.proposals import Proposals
from qsdt_jax.detection.regions import BOX_SIDE, MASK_SIDE, Anchors, anchors_of, pooled, proposals_of
from qsdt_jax.detection.targets import BoxTargets, anchor_targets, box_targets, mask_targets
from qsdt_jax.losses.detection import box_losses, mask_loss, proposal_losses
from qsdt_jax.models.detector import MaskRCNN, networks_of
from qsdt_jax.tasks.average_precision import AveragePrecision
from qsdt_jax.tasks.task import Batch, Variables


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
        scores, deltas = self._call(variables, "propose", maps, True)
        levels = anchors_of(
            maps,
            batch["image"],
            batch["size"],
            self.model.anchor_scale,
            self.model.geometry == "published",
        )
        of_proposals = proposal_losses(
            *_joined(scores, deltas), *self._anchor_targets(keys[:, 0], levels, batch)
        )

        proposals = proposals_of(scores, deltas, levels, batch["size"], self.train_proposals, self.resolution)
        regions = self._box_targets(keys[:, 1], proposals, batch)
        classes, boxes = self._call(variables, "classify", pooled(maps, regions.boxes, BOX_SIDE), True)
        of_boxes = box_losses(classes, boxes, regions.category, regions.weight, regions.deltas)

        # Positive ones come first, at most so many.
        masked = jax.tree.map(lambda x: x[:, : self.regions(train=True)[1]], regions)
        logits = self._call(variables, "segment", pooled(maps, masked.boxes, MASK_SIDE), True)
        shapes = jax.vmap(mask_targets)(batch["masks"], batch["boxes"], masked.boxes, masked.matched)
        of_masks = mask_loss(logits, masked.category, masked.positive, shapes > 0)

        names = "loss_rpn_score", "loss_rpn_box", "loss_class", "loss_box", "loss_mask"
        losses: dict[str, jax.Array] = dict(zip(names, (*of_proposals, *of_boxes, of_masks), strict=True))
        return sum(losses.values(), jnp.zeros(())), (updates["batch_stats"], losses)

    def outputs(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Objects in the pixels of the array, by descending score, see `detection.inference.find_objects`."""
        networks = networks_of(functools.partial(self._call, variables))
        return find_objects(networks, self.settings, batch["image"], batch["size"])

    @property
    def settings(self) -> Settings:
        """What the network is told when it is used."""
        return Settings(
            anchor_scale=self.model.anchor_scale,
            geometry=self.model.geometry,
            proposals=self.test_proposals,
            score_threshold=self.score_threshold,
            detections=self.detections,
            resolution=self.resolution,
        )

    def regions(self, train: bool) -> tuple[int, int]:
        """On how many regions of an image box head and mask head run."""
        return (
            (self.roi_samples, self.roi_samples // 4) if train else (self.test_proposals[1], self.detections)
        )

    def _call(self, variables: Variables, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.model.apply(variables, *args, method=method, **kwargs)

    def _anchor_targets(self, keys: jax.Array, levels: Anchors, batch: Batch) -> tuple[jax.Array, ...]:
        """Of all anchors whether they have an object, their weights, and the deltas to it."""
        boxes, learning = np.concatenate(levels.boxes), jnp.concatenate(levels.learning, axis=1)

        def of_image(key: jax.Array, learning: jax.Array, objects: jax.Array, category: jax.Array):
            return anchor_targets(key, boxes, learning, objects, category, self.rpn_samples)

        # All images at once: in a loop over them, each device would do the work of all.
        targets = jax.vmap(of_image)(keys, learning, batch["boxes"], batch["category"])
        return targets.label > 0, targets.weight, targets.deltas

    def _box_targets(self, keys: jax.Array, proposals: Proposals, batch: Batch) -> BoxTargets:
        """The regions of each image that the heads learn from."""
        of_image = functools.partial(box_targets, num_classes=self.model.num_classes, number=self.roi_samples)
        return jax.vmap(of_image)(keys, proposals.boxes, proposals.valid, batch["boxes"], batch["category"])


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
