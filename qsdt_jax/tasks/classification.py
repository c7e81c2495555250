"""The classification task."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.data.mixing import mix_batch
from qsdt_jax.losses.classification import cross_entropy, each_step_cross_entropy
from qsdt_jax.models import Classifier, SpikingResformer
from qsdt_jax.models.classifier import HEAD
from qsdt_jax.randomness import Purpose
from qsdt_jax.tasks.accuracy import Accuracy
from qsdt_jax.tasks.task import Batch, Variables


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Accuracy):
    """Images to classes by cross-entropy.

    Attributes:
      model: the classifier.
      image_shape: shape of one input, (H, W, C) or (T, H, W, C).
      class_names: in the order of the outputs; no program depends on them.
      label_smoothing: in training only, never in the evaluation loss.
      each_step: whether the loss is the mean of those of all time steps (TET: Deng et al., ICLR 2022), not
        that of the logits averaged over time.
      mixup_alpha, cutmix_alpha: of the Beta distributions of mixing in training; 0 for none.
    """

    model: Classifier | SpikingResformer
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...] = dataclasses.field(compare=False)
    label_smoothing: float = 0.0
    each_step: bool = False
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    @property
    def loss_title(self) -> str:
        of_steps = " of each time step" if self.each_step else ""
        return f"cross-entropy{of_steps}, label smoothing {self.label_smoothing:g}"

    def batch_shapes(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{"image": (size, ...), "label": (size,)}."""
        return {
            "image": jax.ShapeDtypeStruct((size, *self.image_shape), jnp.float32),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32),
        }

    def init(self, key: jax.Array) -> Variables:
        """Variables of the model, drawn with `key`."""
        images = jnp.zeros((1, *self.image_shape), jnp.float32)
        return dict(self.model.init(key, images))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean cross-entropy of a batch {"image": (B, ...), "label": (B,)}.

        Args:
          variables: of the model.
          batch: one micro-batch, whose images are mixed among themselves.
          key: of this micro-batch; drop path and mixing follow from it.
          step: plays no role.
        """
        images, labels = self.mixed(batch, key)
        logits, updates = self.model.apply(
            variables,
            images,
            train=True,
            rngs={"drop_path": key},
            mutable=["batch_stats"],
            method="steps" if self.each_step else None,
        )
        loss = self.label_loss(logits, labels)
        return loss, (updates["batch_stats"], {})

    def mixed(self, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images and labels as the network sees them in training."""
        images, labels = batch["image"], batch["label"]
        if not (self.mixup_alpha or self.cutmix_alpha):
            return images, labels
        return mix_batch(
            images,
            labels,
            jax.random.fold_in(key, Purpose.MIXING),
            num_classes=self.model.num_classes,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
        )

    def label_loss(self, logits: Any, labels: jax.Array) -> jax.Array:
        """The mean cross-entropy of logits (B, K), with `each_step` (B, T, K)."""
        losses = each_step_cross_entropy if self.each_step else cross_entropy
        return jnp.mean(losses(logits, labels, self.label_smoothing))

    def outputs(self, variables: Variables, batch: Batch) -> jax.Array:
        """Logits (B, K)."""
        return self.model.apply(variables, batch["image"])  # pyright: ignore[reportReturnType]


def class_count(variables: Variables) -> int | None:
    """Number of classes that the variables of a classifier tell apart; None for those of another network."""
    head = variables["params"].get(HEAD)
    return None if head is None else head["kernel"].shape[-1]
