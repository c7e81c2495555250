"""The teacher of a configuration, and the task that learns from it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import ml_collections

from launch.build import DTYPES
from launch.trained import Trained, load_trained
from qsdt_jax.errors import UserError
from qsdt_jax.losses.distillation import Target
from qsdt_jax.losses.fgd import Normalization
from qsdt_jax.models.operations import layer_operations
from qsdt_jax.train.classification import Classification
from qsdt_jax.train.distillation import Distillation, Schedule, Weights
from qsdt_jax.train.task import Task

# What student and teacher have to have in common of their data.
COMMON = ("image_size", "channels", "mean", "std", "events")


def with_teacher(
    config: ml_collections.ConfigDict, task: Task, class_names: Sequence[str], total_steps: int
) -> Task:
    """The task with the teacher of `config.distill`; as it is where there is none.

    Raises:
      UserError: a weight without a teacher, values out of range, a teacher that cannot be read or has other
        classes, images or normalisation.
    """
    distill = config.distill
    if not distill.teacher:
        if distill.fgd or distill.kd:
            raise UserError("config.distill has a weight, but config.distill.teacher names no workdir")
        return task
    assert isinstance(task, Classification)  # The one task that configurations have.
    weights = _weights(distill, total_steps)
    teacher = load_trained(Path(distill.teacher).expanduser())
    _check_fit(config, class_names, teacher)
    model = teacher.task.model.clone(dtype=DTYPES[distill.dtype], exact_evaluation=False)
    _report_cost(config, task, teacher)
    return Distillation(student=task, teacher=model, teacher_variables=teacher.variables, weights=weights)


def _weights(distill: ml_collections.ConfigDict, total_steps: int) -> Weights:
    for key in ("fgd", "kd"):
        if not 0 <= distill[key] < float("inf"):
            raise UserError(f"config.distill.{key}={distill[key]} must be at least 0")
    if not (distill.fgd or distill.kd):
        raise UserError("config.distill has a teacher, but config.distill.fgd and kd are 0: nothing to learn")
    if not 0 < distill.temperature < float("inf"):
        raise UserError(f"config.distill.temperature={distill.temperature} must be positive")
    choices = {
        "fgd_normalization": get_args(Normalization),
        "fgd_schedule": get_args(Schedule),
        "kd_target": get_args(Target),
        "dtype": tuple(DTYPES),
    }
    for key, allowed in choices.items():
        if distill[key] not in allowed:
            raise UserError(f"config.distill.{key}={distill[key]!r} is none of {', '.join(allowed)}")
    return Weights(
        fgd=distill.fgd,
        fgd_normalization=distill.fgd_normalization,
        fgd_schedule=distill.fgd_schedule,
        kd=distill.kd,
        kd_target=distill.kd_target,
        temperature=distill.temperature,
        total_steps=total_steps,
    )


def _check_fit(config: ml_collections.ConfigDict, class_names: Sequence[str], teacher: Trained) -> None:
    """Refuses a teacher that was trained to see or to say something else."""
    where = f"the teacher in {teacher.workdir}"
    if teacher.class_names != tuple(class_names):
        raise UserError(
            f"{where} has other classes: {_listed(teacher.class_names)}; expected {_listed(class_names)}"
        )
    for key in COMMON:
        found, expected = teacher.config.data[key], config.data[key]
        if found != expected:
            raise UserError(f"{where} was trained with data.{key}={found}; expected {expected}")
    if teacher.task.model.timesteps > 1 and config.data.events:
        raise UserError(f"{where} takes events, which no teacher can be given yet")


def _listed(names: Sequence[str], shown: int = 3) -> str:
    more = ", ..." if len(names) > shown else ""
    return f"{len(names)} ({', '.join(names[:shown])}{more})"


def _report_cost(config: ml_collections.ConfigDict, task: Classification, teacher: Trained) -> None:
    """A step is forward and backward of the student, about 3 forward passes, and one of the teacher."""
    size = tuple(config.data.image_size)
    own, other = (
        sum(layer.macs for layer in layer_operations(model, size))
        for model in (task.model, teacher.task.model)
    )
    print(
        f"teacher: {teacher.title}, {other / 1e6:.2f} M MACs an image in evaluation; "
        f"the student has {own / 1e6:.2f} M forward, {3 * own / 1e6:.2f} M in a training step",
        file=sys.stderr,
    )
