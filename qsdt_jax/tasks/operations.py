"""The operations of a task for one image: a detector's heads run on many regions."""

import dataclasses
from collections.abc import Iterable

from qsdt_jax.models.operations import LayerOperations
from qsdt_jax.tasks.detection import Detection
from qsdt_jax.tasks.task import Task


def operations_of(
    task: Task, layers: Iterable[LayerOperations], *, train: bool = False
) -> list[LayerOperations]:
    """The layers with the operations of all regions of an image.

    Args:
      task: of any kind.
      layers: of its network, see `models.operations.layer_operations`.
      train: of the loss, whose regions are samples, and not of evaluation.
    """
    if not isinstance(task, Detection):
        return list(layers)
    box, mask = task.regions(train)
    numbers = {"box_head": box, "mask_head": mask}
    return [
        dataclasses.replace(layer, macs=numbers.get(layer.name.partition("/")[0], 1) * layer.macs)
        for layer in layers
    ]


def macs_of(task: Task, layers: Iterable[LayerOperations], *, train: bool = False) -> int:
    """Multiply-accumulates of an image; arguments as of `operations_of`."""
    return sum(layer.macs for layer in operations_of(task, layers, train=train))
