"""Images with objects from a configuration to the batches of a run."""

import itertools

import numpy as np
import pytest

from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.data import build_data, build_preprocess, build_source
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.dense.fake_objects import FakeObjects
from qsdt_jax.data.dense.segmentation import SegmentationPreprocess
from qsdt_jax.errors import UserError
from qsdt_jax.inspect import input_speed
from qsdt_jax.inspect.input_speed import jpegs, measure_input

CHANGES = {
    "task.name": "tests.assemble.objects_task:TASK",
    "data.source": "fake",
    "data.fake_images": 30,
    "data.fake_classes": 5,
    "data.image_size": (32, 48),
    "data.short_side": 32,
    "data.long_side": 48,
    "data.short_sides": (24, 32),
    "data.crop_short_sides": (24,),
    "data.crop_sides": (12, 20),
    "data.buckets": ((32, 48), (48, 32)),
    "data.augmentation": "resize_or_crop_flip",
    "data.objects": 6,
    "batch_size": 4,
    "epochs": 3,
    "eval.batch_size": 4,
}


def objects(**changes):
    config = base_config()
    config.update_from_flattened_dict(CHANGES | {name.replace("__", "."): x for name, x in changes.items()})
    check_config(config)
    return config


def test_the_batches_of_a_run():
    batch = next(build_run(objects()).training_data(0))
    assert {name: values.shape for name, values in batch.items()} == {
        "image": (4, 32, 48, 3),
        "size": (4, 2),
        "index": (4,),
        "boxes": (4, 6, 4),
        "category": (4, 6),
        "masks": (4, 6, 56, 56),
    }


def test_portrait_images_come_in_batches_of_their_own():
    """Of fake images of 32x32 nearly half are taller than wide; a run goes on from any step."""
    config = objects(data__portrait=True, data__image_size=(32, 48))
    config.data.source = "tests.assemble.test_objects:upright"
    run, data = build_run(config), build_data(config)
    landscape, portrait = data.training_groups
    assert len(landscape) >= 8 and len(portrait) >= 8
    steps = len(landscape) // 4 + len(portrait) // 4
    assert run.total_steps == 3 * steps
    batches = list(itertools.islice(run.training_data(0), steps))
    shapes = [batch["image"].shape[1:3] for batch in batches]
    assert shapes.count((32, 48)) == len(landscape) // 4 and shapes.count((48, 32)) == len(portrait) // 4
    for batch, shape in zip(batches, shapes, strict=True):
        group = landscape if shape == (32, 48) else portrait
        assert set(batch["index"].tolist()) <= set(group)
    again = next(run.training_data(steps - 1))
    assert all(np.array_equal(again[name], batches[-1][name]) for name in again)


def upright(config, split):
    del split
    return FakeObjects(config.data.fake_images, (32, 32, 3), 5)


def test_a_batch_that_no_orientation_fills():
    config = objects(data__portrait=True, data__fake_images=6, batch_size=6)
    config.data.source = "tests.assemble.test_objects:upright"
    with pytest.raises(UserError, match=r"config.batch_size=6 exceeds both the \d images that are at least"):
        build_run(config)


def test_fake_examples_are_of_the_kind_of_the_task():
    source = build_source(objects(), "test")
    assert isinstance(source, FakeObjects) and len(source) == 30 and source.shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"data.augmentation": "crop_flip"},
            "is none of none, resize, resize_flip, resize_or_crop, resize_or_c",
        ),
        ({"data.mixup": 0.5}, "config.data.mixup=0.5 is not for images with objects; expected 0"),
        ({"data.photometric": True}, "config.data.photometric=True is for images with annotations"),
        ({"data.events": True}, "events have no boxes of objects"),
        ({"data.long_side": 16}, "config.data.long_side=16 is below config.data.short_side=32"),
        ({"data.channels": 2, "data.mean": (0.5,), "data.std": (0.5,)}, "images have 1 or 3 channels"),
        ({"data.short_sides": ()}, "must be one or more whole numbers above 0"),
        ({"data.crop_short_sides": (24, 0)}, "must be one or more whole numbers above 0"),
        ({"data.crop_sides": (20, 12)}, "must be a pair of whole numbers 0 < low <= high"),
        ({"data.objects": 0}, "config.data.objects=0 must be at least 1"),
        ({"data.objects": 5000}, "config.data.objects=5000 must be at most 1024"),
    ],
)
def test_mistakes(changes, told):
    config = objects()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as caught:
        check_config(config)
        build_preprocess(config)
    assert told in str(caught.value)


def test_portrait_batches_are_of_images_with_objects_alone():
    config = objects(data__portrait=True, data__augmentation="none")
    for task in ("classification", "semantic_segmentation"):
        config.task.name = task
        with pytest.raises(UserError, match=r"config.data.portrait=True is for images with objects"):
            build_preprocess(config)
    config.data.portrait = False
    assert isinstance(build_preprocess(config), SegmentationPreprocess)


def test_the_speed_of_the_input(monkeypatch):
    """By threads alone, which start at once."""
    for name, value in {"SECONDS": 0.0, "REPEATS": 1, "IMAGES": 4, "BATCH": 2}.items():
        monkeypatch.setattr(input_speed, name, value)
    pipeline = input_speed._pipeline
    monkeypatch.setattr(
        input_speed, "_pipeline", lambda source, preprocess, count: pipeline(source, preprocess, 0)
    )
    report = measure_input(objects(data__portrait=True))
    assert list(report["stages"]) == ["decode", "decode, crop, flip", "decode, evaluation"]
    assert all(rate > 0 for rates in ("stages", "pipeline") for rate in report[rates].values())
    per_object = 4 * 4 + 4 + 56 * 56
    assert report["images"]["bytes_to_device"] == 32 * 48 * 3 + 2 * 4 + 4 + 6 * per_object
    example = jpegs(objects=True)[3]
    assert example["masks"].shape == (7, 400, 500) and example["index"] == 3
    inside = example["masks"].sum((1, 2)) / np.prod(example["boxes"][:, 2:] - example["boxes"][:, :2], axis=1)
    np.testing.assert_allclose(inside, np.pi / 4, atol=0.05)  # Ellipses.
