"""The teacher of a configuration, and the task that learns from it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np

from qsdt_jax.assemble.network import DTYPES, require_classifier
from qsdt_jax.assemble.shapes import image_size
from qsdt_jax.data.classes import Classes, require_same_classes
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.sources import file_source, load_source
from qsdt_jax.files import expanded
from qsdt_jax.interop.timm import caformer_variables, num_classes, read_timm
from qsdt_jax.models.caformer import CAFORMERS, CAFormer, caformer_macs
from qsdt_jax.models.operations import macs_per_image
from qsdt_jax.progress import tell
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.distillation import Distillation, Weights
from qsdt_jax.tasks.task import Task, Variables
from qsdt_jax.tasks.teacher import CAFormerTeacher, OwnTeacher, Teacher
from qsdt_jax.workdir.workdir import TRAINING, Source

# What student and teacher have to have in common of their data.
COMMON = ("image_size", "channels", "mean", "std", "events")
# Of the pixels in 0..1 that timm trained its CAFormers on.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEACHER = "distill.teacher"
SMALLEST = 32  # Pixels a side of CAFormer's last stage.


def with_teacher(config: ml_collections.ConfigDict, task: Task, total_steps: int) -> Task:
    """The task with the teacher of `config.distill`; as it is where there is none.

    Raises:
      UserError: as `find_teacher`.
    """
    return taught(config, task, find_teacher(config, task.class_names), total_steps)


def find_teacher(
    config: ml_collections.ConfigDict, class_names: Sequence[str] | None, known: Source | None = None
) -> "Found | None":
    """The teacher of `config.distill`; None where there is none.

    A teacher is the workdir of a trained network, or "caformer_s18:FILE" (s36, m36, b36) with timm's weights.
    Such a file holds no class names: they are taken to be in timm's order, which is that of the folders'
    names and that of the data here.

    Args:
      config, class_names: of the student.
      known: the checkpoint that it has learned from so far.

    Raises:
      UserError: a weight without a teacher, values out of range, a teacher that cannot be read, has other
        classes, images or normalisation, or is another than the known one.
    """
    distill = config.distill
    if not distill.teacher:
        if distill.fgd or distill.kd:
            raise UserError("config.distill has a weight, but config.distill.teacher names none")
        if config.model.distillation_head:
            raise UserError(
                "config.model.distillation_head=True, but config.distill.teacher names no teacher of it"
            )
        return None
    _weights(config, total_steps=1)
    class_names = _taught_classes(config, class_names)
    name, colon, file = distill.teacher.partition(":")
    if colon and name.startswith("caformer"):
        return _caformer(config, name, Path(expanded(file)), class_names, known)
    return _trained(config, class_names, known)


def taught(config: ml_collections.ConfigDict, task: Task, teacher: "Found | None", total_steps: int) -> Task:
    """The task with a teacher, if there is one; says what that costs."""
    if teacher is None:
        return task
    if not isinstance(task, Classification):
        raise UserError(f"config.distill.teacher teaches a classification alone, no {config.task.name!r}")
    require_classifier(task.model, "config.distill.teacher teaches a network with a backbone; this run")
    if task.each_step:
        raise UserError("config.loss.each_step=True, but a teacher's loss is that of the mean over all steps")
    _report_cost(teacher, macs_per_image(task.model, image_size(config)))
    return Distillation(
        student=task,
        teacher=teacher.teacher,
        teacher_variables=teacher.variables,
        weights=_weights(config, total_steps),
    )


def check_pair(
    config: ml_collections.ConfigDict,
    class_names: Sequence[str] | None,
    teacher: ml_collections.ConfigDict,
    teacher_classes: Classes,
) -> None:
    """Refuses a teacher that is or will be trained to see or to say something else, and unfit weights.

    Args:
      config, class_names: of the student.
      teacher, teacher_classes: of the teacher, which is called as its classes say.

    Raises:
      UserError: see above.
    """
    _weights(config, total_steps=1)
    where = teacher_classes.where
    class_names = _taught_classes(config, class_names)
    require_same_classes(class_names, teacher_classes, what=TRAINING)
    for key in COMMON:
        found, expected = teacher.data[key], config.data[key]
        if found != expected:
            raise UserError(f"{where} has data.{key}={found}; expected {expected}")
    if teacher.model.timesteps > 1 and config.data.events:
        raise UserError(f"{where} takes events, which no teacher can be given yet")


class Found(NamedTuple):
    """A teacher that fits: what it is called, computes and costs."""

    title: str
    teacher: Teacher
    variables: Variables
    macs: int
    source: Source


def _trained(config: ml_collections.ConfigDict, class_names: Sequence[str], known: Source | None) -> Found:
    """The network of a workdir."""
    trained, source = load_source(config, TEACHER, known)
    classes = dataclasses.replace(trained.require_classes(), where=f"the teacher in {trained.workdir}")
    check_pair(config, class_names, trained.config, classes)
    model = trained.classifier
    fast = model.backbone.clone(dtype=DTYPES[config.distill.dtype], exact_evaluation=False)
    return Found(
        title=trained.title,
        teacher=OwnTeacher(model.clone(backbone=fast)),
        variables=trained.variables,
        macs=macs_per_image(model, image_size(config)),
        source=source,
    )


def _caformer(
    config: ml_collections.ConfigDict,
    name: str,
    file: Path,
    class_names: Sequence[str],
    known: Source | None,
) -> Found:
    """A CAFormer of timm's weights, given the pixels in the normalisation that timm trained it with."""
    if name not in CAFORMERS:
        raise UserError(f"config.distill.teacher: {name!r} is none of {', '.join(CAFORMERS)}")
    data = config.data
    if data.events or data.channels != len(IMAGENET_MEAN):
        inputs = "events" if data.events else f"images of {data.channels} channels"
        raise UserError(
            f"the teacher {name} takes images of {len(IMAGENET_MEAN)} channels; the data are {inputs}"
        )
    if min(data.image_size) < SMALLEST:
        raise UserError(
            f"the teacher {name} takes images of at least {SMALLEST} pixels a side; "
            f"config.data.image_size={image_size(config)}"
        )
    tensors = read_timm(file)
    outputs = num_classes(str(file), tensors)
    unnamed = Classes(where=f"the teacher in {file}", outputs=outputs, names=None)
    require_same_classes(class_names, unnamed, what=TRAINING)
    source = file_source(config, TEACHER, file, known)
    model = CAFormer(**CAFORMERS[name], num_classes=outputs, dtype=DTYPES[config.distill.dtype])
    mean, std = (np.broadcast_to(np.array(data[key]), data.channels) for key in ("mean", "std"))
    return Found(
        title=f"{name} of {file}",
        teacher=CAFormerTeacher(
            model,
            scale=tuple((std / IMAGENET_STD).tolist()),
            shift=tuple(((mean - IMAGENET_MEAN) / IMAGENET_STD).tolist()),
        ),
        variables=caformer_variables(model, str(file), tensors),
        macs=caformer_macs(model, image_size(config)),
        source=source,
    )


def _taught_classes(config: ml_collections.ConfigDict, class_names: Sequence[str] | None) -> Sequence[str]:
    if class_names is None:
        raise UserError(
            f"config.distill.teacher teaches classes, of which config.task.name={config.task.name!r} has none"
        )
    return class_names


def _weights(config: ml_collections.ConfigDict, total_steps: int) -> Weights:
    distill = config.distill
    if config.model.distillation_head and not distill.kd:
        raise UserError(
            "config.model.distillation_head=True, but config.distill.kd=0: nothing would train it"
        )
    if not (distill.fgd or distill.kd):
        raise UserError("config.distill has a teacher, but config.distill.fgd and kd are 0: nothing to learn")
    return Weights(
        labels=distill.labels,
        fgd=distill.fgd,
        fgd_normalization=distill.fgd_normalization,
        fgd_schedule=distill.fgd_schedule,
        kd=distill.kd,
        kd_target=distill.kd_target,
        temperature=distill.temperature,
        total_steps=total_steps,
    )


def _report_cost(teacher: Found, own: int) -> None:
    """A step is forward and backward of the student, about 3 forward passes, and one of the teacher."""
    tell(
        f"teacher: {teacher.title}, {teacher.macs / 1e6:.2f} M MACs an image in evaluation; "
        f"the student has {own / 1e6:.2f} M forward, {3 * own / 1e6:.2f} M in a training step"
    )
