"""A task whose network learns from another one besides the labels: FGD and logit distillation."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from qsdt_jax.evaluate.split import Scored
from qsdt_jax.losses.distillation import Target, logit_distillation
from qsdt_jax.losses.fgd import Normalization, fgd_loss
from qsdt_jax.metric import Metric
from qsdt_jax.models import Classifier
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.task import Batch, Variables
from qsdt_jax.tasks.teacher import Teacher, is_projection, projections

Schedule = Literal["constant", "cosine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What the losses weigh.

    Attributes:
      labels: factor on the task's own loss.
      fgd: lambda of L_FGD, at the first step.
      fgd_normalization: see `losses.fgd.gram_matrices`.
      fgd_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
      kd: lambda of the distance between the logits.
      kd_target, temperature: see `losses.distillation`.
      total_steps: length of the run.
    """

    fgd: float
    labels: float = 1.0
    fgd_normalization: Normalization = "frobenius"
    fgd_schedule: Schedule = "constant"
    kd: float = 0.0
    kd_target: Target = "soft"
    temperature: float = 1.0
    total_steps: int = 1

    def fgd_at(self, step: jax.Array | int) -> jax.Array | float:
        """lambda of L_FGD after `step` updates."""
        if self.fgd_schedule == "constant":
            return self.fgd
        return self.fgd * 0.5 * (1 + jnp.cos(jnp.pi * step / self.total_steps))


class Distillation(struct.PyTreeNode):
    """L = lambda_labels L_task + lambda_fgd L_FGD + lambda_kd KD, with a teacher that stays as it is.

    A pytree, so that a step takes the teacher's variables as an argument and not as constants of its program.
    The teacher sees what the student sees, augmented and mixed, once for each batch. KD teaches the student's
    distillation head where it has one (DeiT), else the head that the labels teach as well.

    Attributes:
      student: the task that is learned.
      teacher: the other network, in evaluation mode.
      teacher_variables: of it.
      weights: of the losses.
    """

    student: Classification = struct.field(pytree_node=False)
    teacher: Teacher = struct.field(pytree_node=False)
    teacher_variables: Variables
    weights: Weights = struct.field(pytree_node=False)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.student.metrics

    @property
    def model(self) -> Classifier:
        """The student, a network with a backbone."""
        assert isinstance(self.student.model, Classifier)
        return self.student.model

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.student.class_names

    @property
    def loss_title(self) -> str:
        return self.student.loss_title

    def batch_shapes(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """As the student's."""
        return self.student.batch_shapes(size)

    def init(self, key: jax.Array) -> Variables:
        """Variables of the student, drawn with `key`."""
        return self.student.init(key)

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """As `Classification.loss`; the metrics tell the parts, not yet weighed."""
        images, labels = self.student.mixed(batch, key)
        logits, followed, own, batch_stats = self._student(variables, images, key)
        variables_of_teacher = jax.lax.stop_gradient(self.teacher_variables)
        taught_logits, taught = jax.lax.stop_gradient(self.teacher(variables_of_teacher, images))
        task_loss = self.student.label_loss(logits, labels)
        metrics, loss = {"task_loss": task_loss}, self.weights.labels * task_loss
        if self.weights.fgd:
            metrics["fgd"] = fgd_loss(own, taught, self.weights.fgd_normalization)
            loss = loss + self.weights.fgd_at(step) * metrics["fgd"]
        if self.weights.kd:
            target, temperature = self.weights.kd_target, self.weights.temperature
            metrics["kd"] = jnp.mean(logit_distillation(followed, taught_logits, target, temperature))
            loss = loss + self.weights.kd * metrics["kd"]
        return loss, (batch_stats, metrics)

    def _student(self, variables: Variables, images: jax.Array, key: jax.Array):
        """Logits for the labels, logits for the teacher, blocks, new batch statistics."""
        answer, updates = self.model.apply(
            variables,
            images,
            train=True,
            rngs={"drop_path": key},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=is_projection,
            method="both_heads" if self.model.distillation_head else None,
        )
        logits, followed = answer if self.model.distillation_head else (answer, answer)
        blocks = projections(self.model, updates["intermediates"], images)
        return logits, followed, blocks, updates["batch_stats"]

    def outputs(self, variables: Variables, batch: Batch) -> jax.Array:
        """The student's logits."""
        return self.student.outputs(variables, batch)

    def score(self, outputs: jax.Array, batch: Batch) -> Scored:
        """The student's, by the labels alone."""
        return self.student.score(outputs, batch)

    def summarize(self, total: Scored, truth: Any) -> dict[str, float]:
        """As the student's task does."""
        return self.student.summarize(total, truth)
