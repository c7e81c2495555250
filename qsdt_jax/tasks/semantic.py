"""The task of semantic segmentation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.data.dense.annotations import annotation_dtype
from qsdt_jax.losses.segmentation import Average, pixel_cross_entropy
from qsdt_jax.models.segmenter import Segmenter
from qsdt_jax.tasks.mean_iou import MeanIoU
from qsdt_jax.tasks.task import Batch, Variables


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticSegmentation(MeanIoU):
    """Pixels to classes by cross-entropy.

    Attributes:
      model: the segmenter.
      image_shape: shape of one input of a training, (H, W, C).
      class_names: in the order of the outputs; no program depends on them.
      average, class_weights: of the loss, see `losses.segmentation.pixel_cross_entropy`.
    """

    model: Segmenter
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...] = dataclasses.field(compare=False)
    average: Average = "all"
    class_weights: tuple[float, ...] = ()

    @property
    def loss_title(self) -> str:
        weighted = "weighted by class, " if self.class_weights else ""
        return f"cross-entropy, {weighted}mean over {self.average} pixels"

    def batch_shapes(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{"image": (size, H, W, C), "size": (size, 2), "annotation": (size, H, W)}."""
        dtype = annotation_dtype(len(self.class_names))
        return {
            "image": jax.ShapeDtypeStruct((size, *self.image_shape), jnp.float32),
            "size": jax.ShapeDtypeStruct((size, 2), jnp.int32),
            "annotation": jax.ShapeDtypeStruct((size, *self.image_shape[:2]), dtype),
        }

    def init(self, key: jax.Array) -> Variables:
        """Variables of the model, drawn with `key`."""
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        return dict(self.model.init(key, images))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean cross-entropy of the pixels of a batch, see `batch_shapes`; `step` plays no role."""
        logits, updates = self.model.apply(
            variables, batch["image"], True, batch["size"], rngs={"drop_path": key}, mutable=["batch_stats"]
        )
        loss = pixel_cross_entropy(logits, batch["annotation"], self.average, self.class_weights)
        return loss, (updates["batch_stats"], {})

    def outputs(self, variables: Variables, batch: Batch) -> jax.Array:
        """Logits (B, H / 2, W / 2, K)."""
        return self.model.apply(variables, batch["image"], False, batch["size"])  # pyright: ignore[reportReturnType]


def class_count(variables: Variables) -> int | None:
    """Number of classes that the variables of a segmenter tell apart; None for those of another network."""
    head = variables["params"].get("seg_head")
    return None if head is None else head["classifier"]["kernel"].shape[-1]
