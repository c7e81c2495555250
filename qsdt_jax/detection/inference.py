"""From images to objects: the four networks of a detector, and all that lies between them.

The networks are arguments, so every form of a detector runs what is here. None of it has weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from qsdt_jax.detection.detections import SCORE_THRESHOLD, Detections, detect
from qsdt_jax.detection.nms import RESOLUTION
from qsdt_jax.detection.proposals import Proposals
from qsdt_jax.detection.regions import BOX_SIDE, MASK_SIDE, anchors_of, pooled, proposals_of

Geometry = Literal["true", "published"]


class Networks(NamedTuple):
    """The networks of a detector with their variables, see `models.detector.MaskRCNN`.

    Attributes:
      pyramid: images and sizes (B, 2) -> five maps (N, h, w, c), N = B * T.
      propose: maps -> by level logits (B, h, w, 3) and deltas (B, h, w, 3, 4).
      classify: features (N, R, 7, 7, c) -> logits (B, R, K + 1) and deltas (B, R, K, 4).
      segment: features (N, R, 14, 14, c) -> logits (B, R, 28, 28, K).
    """

    pyramid: Callable[[jax.Array, jax.Array], Sequence[jax.Array]]
    propose: Callable[[Sequence[jax.Array]], tuple[Sequence[jax.Array], Sequence[jax.Array]]]
    classify: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    segment: Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a detector is told when it is used.

    Attributes:
      anchor_scale: side of a square anchor, in strides.
      geometry: of the pyramid, see `models.detection_fpn.DetectionFPN`.
      proposals: boxes of each level before non-maximum suppression, and of an image.
      score_threshold: of a detection.
      detections: D, of an image at most.
      resolution: to which scores are rounded before each sort.
    """

    anchor_scale: float = 8.0
    geometry: Geometry = "true"
    proposals: tuple[int, int] = (1000, 1000)
    score_threshold: float = SCORE_THRESHOLD
    detections: int = 100
    resolution: float = RESOLUTION


def find_objects(
    networks: Networks,
    settings: Settings,
    images: jax.Array,
    sizes: jax.Array,
    part: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
) -> dict[str, jax.Array]:
    """Objects in the pixels of the array, by descending score.

    Args:
      networks: of any form.
      settings: of the search.
      images: (B, H, W, C) or (B, T, H, W, C).
      sizes: (B, 2) height and width of what is image, at the top left.
      part: what is made of each function that runs between two networks; `compiled` for forms that shall
        agree to the bit, since a compiler may round otherwise what it sees together with a network.

    Returns:
      {"boxes": (B, D, 4), "score": (B, D), 0 in empty places, "category": int32 (B, D), -1 there, "mask":
      (B, D, 28, 28) probabilities of the category}.
    """
    maps = networks.pyramid(images, sizes)
    scores, deltas = networks.propose(maps)
    proposals, features = part(regions)(settings, images, sizes, maps, scores, deltas)
    classes, boxes = networks.classify(features)
    found, features = part(objects)(settings, sizes, maps, proposals, classes, boxes)
    return part(with_masks)(settings, found, networks.segment(features))


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of this module, compiled on its own."""
    return jax.jit(function, static_argnums=0)


def regions(
    settings: Settings,
    images: jax.Array,
    sizes: jax.Array,
    maps: Sequence[jax.Array],
    scores: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
) -> tuple[Proposals, jax.Array]:
    """The proposals of each image, and what is pooled of them for `Networks.classify`."""
    levels = anchors_of(maps, images, sizes, settings.anchor_scale, settings.geometry == "published")
    proposals = proposals_of(scores, deltas, levels, sizes, settings.proposals, settings.resolution)
    return proposals, pooled(maps, proposals.boxes, BOX_SIDE)


def objects(
    settings: Settings,
    sizes: jax.Array,
    maps: Sequence[jax.Array],
    proposals: Proposals,
    classes: jax.Array,
    boxes: jax.Array,
) -> tuple[Detections, jax.Array]:
    """The objects of each image, and what is pooled of them for `Networks.segment`."""
    of_image = functools.partial(
        detect,
        number=settings.detections,
        score_threshold=settings.score_threshold,
        resolution=settings.resolution,
    )
    found = jax.vmap(of_image)(proposals.boxes, proposals.valid, classes, boxes, sizes)
    return found, pooled(maps, found.boxes, MASK_SIDE)


def with_masks(_: Settings, found: Detections, logits: jax.Array) -> dict[str, jax.Array]:
    """Objects with the masks of their categories, see `find_objects`."""
    category = jnp.maximum(found.category, 0)[..., None, None, None]
    own = jnp.take_along_axis(logits, category, axis=-1)[..., 0]
    return {**found._asdict(), "mask": jax.nn.sigmoid(own)}
