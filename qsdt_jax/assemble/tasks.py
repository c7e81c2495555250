"""The task of a configuration: one table from `config.task.name` to what makes a task.

A task that is not in the table is named by its place, see `assemble.imported`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from qsdt_jax.answers import objects
from qsdt_jax.answers.answering import Answering
from qsdt_jax.answers.classes import CLASSES
from qsdt_jax.answers.maps import MAPS
from qsdt_jax.assemble.examples import ANNOTATED, LABELLED, OBJECTS, Examples
from qsdt_jax.assemble.imported import imported_object
from qsdt_jax.assemble.network import build_detector, build_model, build_segmenter
from qsdt_jax.assemble.shapes import input_shape
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.metric import Metric
from qsdt_jax.tasks import average_precision, classification, detection, semantic
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.detection import Detection
from qsdt_jax.tasks.mean_iou import by_class
from qsdt_jax.tasks.semantic import SemanticSegmentation
from qsdt_jax.tasks.task import Task, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskFactory:
    """Makes the tasks of one kind.

    Attributes:
      build: from a configuration and the names of the data's classes, None where these are not known, to the
        task; raises UserError for values of the configuration that are out of range.
      metrics: of its tasks, for whoever reads results without building a network.
      class_count: of tasks whose outputs are classes, how many of them the variables of a checkpoint tell
        apart, or None for variables of another network.
      shared: of tasks whose `summarize`, `by_class` and `results` have work in common, what does it once:
        from what these take to a total that they take as well.
      by_class: of tasks whose data have classes or categories, from what `summarize` takes to columns of one
        number for each class, by their titles.
      results: of tasks whose outputs other tools can read, from what `summarize` takes to plain data, which
        become a JSON file.
      examples: what they learn from, and how that becomes inputs.
      answering: how `predict` and `qsdt_jax.load` answer for images; None where they do not.
    """

    build: Callable[[ml_collections.ConfigDict, Sequence[str] | None], Task]
    metrics: tuple[Metric, ...]
    class_count: Callable[[Variables], int | None] | None = None
    shared: Callable[[Scored, Any], Any] | None = None
    by_class: Callable[[Any, Any], Mapping[str, np.ndarray]] | None = None
    results: Callable[[Any, Any], Any] | None = None
    examples: Examples = LABELLED
    answering: Answering | None = None


def task_factory(name: str) -> TaskFactory:
    """What makes the tasks of a name: one of `TASKS`, or "module:NAME"; raises UserError for any other."""
    if not isinstance(name, str):
        raise UserError(f"config.task.name={name!r} is no name: expected a text")
    if name in TASKS:
        return TASKS[name]
    found = imported_object("task.name", name, TASKS)
    if not isinstance(found, TaskFactory):
        raise UserError(f"config.task.name={name!r}: expected a TaskFactory, found {type(found).__name__}")
    return found


def build_task(config: ml_collections.ConfigDict, class_names: Sequence[str] | None) -> Task:
    """The task of a configuration.

    Args:
      config: of the run.
      class_names: of the data, in the order of their labels; None where there are none or they are not known.

    Raises:
      UserError: a value out of range, or a task that is scored otherwise than its factory says.
    """
    factory = task_factory(config.task.name)
    task = factory.build(config, class_names)
    if task.metrics != factory.metrics:
        raise UserError(
            f"config.task.name={config.task.name!r}: the metrics of its TaskFactory are not those of the "
            f"task that it builds: {_listed(factory.metrics)}; {_listed(task.metrics)}"
        )
    return task


def _listed(metrics: Sequence[Metric]) -> str:
    return ", ".join(f"{metric.name} ({metric.described})" for metric in metrics)


def build_classification(
    config: ml_collections.ConfigDict, class_names: Sequence[str] | None
) -> Classification:
    """Classification of the data's classes; raises UserError as `build_model` does."""
    names = _required(config, class_names)
    return Classification(
        model=build_model(config, len(names)),
        image_shape=input_shape(config),
        class_names=names,
        label_smoothing=config.loss.label_smoothing,
        each_step=config.loss.each_step,
        mixup_alpha=config.data.mixup,
        cutmix_alpha=config.data.cutmix,
    )


def build_semantic_segmentation(
    config: ml_collections.ConfigDict, class_names: Sequence[str] | None
) -> SemanticSegmentation:
    """Segmentation into the data's classes; raises UserError as `build_segmenter` does."""
    names = _required(config, class_names)
    weights = tuple(config.loss.class_weights)
    if weights and len(weights) != len(names):
        raise UserError(
            f"config.loss.class_weights has {len(weights)} numbers; expected none, or one for each of the "
            f"{len(names)} classes"
        )
    return SemanticSegmentation(
        model=build_segmenter(config, len(names)),
        image_shape=input_shape(config),
        class_names=names,
        average=config.loss.average,
        class_weights=weights,
    )


def build_detection(config: ml_collections.ConfigDict, class_names: Sequence[str] | None) -> Detection:
    """Detection of objects of the data's categories; raises UserError as `build_detector` does."""
    names, keys = _required(config, class_names), config.detection
    return Detection(
        model=build_detector(config, len(names)),
        image_shape=input_shape(config),
        class_names=names,
        objects=config.data.objects,
        rpn_samples=keys.rpn_samples,
        roi_samples=keys.roi_samples,
        train_proposals=tuple(keys.train_proposals),
        test_proposals=tuple(keys.test_proposals),
        score_threshold=keys.score_threshold,
        detections=keys.detections,
    )


def _required(config: ml_collections.ConfigDict, class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is None:
        raise UserError(f"config.task.name={config.task.name!r} needs data with classes; these have none")
    return tuple(class_names)


TASKS: Mapping[str, TaskFactory] = {
    "classification": TaskFactory(
        build=build_classification,
        metrics=Classification.metrics,
        class_count=classification.class_count,
        answering=CLASSES,
    ),
    "semantic_segmentation": TaskFactory(
        build=build_semantic_segmentation,
        metrics=SemanticSegmentation.metrics,
        class_count=semantic.class_count,
        by_class=by_class,
        examples=ANNOTATED,
        answering=MAPS,
    ),
    "detection": TaskFactory(
        build=build_detection,
        metrics=Detection.metrics,
        class_count=detection.class_count,
        shared=average_precision.found_in,
        by_class=average_precision.by_class,
        results=average_precision.results,
        examples=OBJECTS,
        answering=objects.OBJECTS,
    ),
}
