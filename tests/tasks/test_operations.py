"""The operations of an image in evaluation and in training: of a detector's heads those of all regions."""

import dataclasses

import pytest

from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.models.operations import LayerOperations
from qsdt_jax.tasks.operations import macs_of, operations_of
from tests.configs.tiny_det import get_config
from tests.launch.tiny import tiny_config

NAMES = ("rpn/score", "rpn/score", "box_head/fc1", "box_head/box", "mask_head/conv0/conv", "head")


def layers() -> list[LayerOperations]:
    return [
        LayerOperations(
            name=name,
            kind="conv",
            macs=10**i,
            weights=2,
            bits=4,
            spikes="neuron",
            entering="neuron",
            inputs=3,
            output_shape=(3,),
        )
        for i, name in enumerate(NAMES)
    ]


@pytest.mark.parametrize(("train", "box", "mask"), [(False, 16, 8), (True, 20, 5)])
def test_heads_of_a_detector_count_for_all_regions(train, box, mask):
    config = get_config()
    config.detection.roi_samples = 20
    task = build_task(config, ("a", "b", "c"))
    found = operations_of(task, layers(), train=train)
    assert [layer.macs for layer in found] == [1, 10, box * 100, box * 1000, mask * 10**4, 10**5]
    assert [dataclasses.replace(layer, macs=0) for layer in found] == [
        dataclasses.replace(layer, macs=0) for layer in layers()
    ]
    assert macs_of(task, layers(), train=train) == sum(layer.macs for layer in found)


def test_other_tasks_have_no_regions():
    task = build_task(tiny_config(), tuple("0123456789"))
    assert operations_of(task, layers()) == operations_of(task, layers(), train=True) == layers()
