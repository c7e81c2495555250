"""Images with annotations from a configuration to a finished run: no part of the loop knows the task."""

import re

import numpy as np
import pytest

from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.data import build_preprocess, build_source, fake_source
from qsdt_jax.assemble.split import Split
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.dense.buckets import Buckets
from qsdt_jax.data.dense.segmentation import SegmentationPreprocess
from qsdt_jax.data.images import normalize
from qsdt_jax.data.sources import FakeAnnotated
from qsdt_jax.errors import UserError
from qsdt_jax.train.loop import train
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.workdir.metrics import read_metrics

IMAGES, CLASSES = 10, 5
BUCKETS = ((16, 32), (32, 32), (48, 48))
CHANGES = {
    "task.name": "tests.assemble.annotated_task:TASK",
    "data.source": "fake",
    "data.fake_images": IMAGES,
    "data.fake_classes": CLASSES,
    "data.image_size": (16, 32),
    "data.mean": (0.5,),
    "data.std": (0.25,),
    "data.augmentation": "resize_crop_flip",
    "data.photometric": True,
    "data.short_side": 16,
    "data.long_side": 48,
    "data.buckets": BUCKETS,
    "batch_size": 4,
    "epochs": 1,
    "eval.batch_size": 4,
}


def annotated(**changes):
    config = base_config()
    config.update_from_flattened_dict(CHANGES | {name.replace("__", "."): x for name, x in changes.items()})
    return config


def expected_score(images: int) -> dict[str, float]:
    """By a plain loop over the examples, one at a time."""
    config = annotated()
    source, preprocess = fake_source(config), build_preprocess(config)
    labelled, shown, largest = 0, 0.0, 0
    for index in range(images):
        labelled += int((source[index]["annotation"] < CLASSES).sum())
        example = preprocess.evaluate(source[index])
        height, width = example["size"]
        shown += normalize(example["image"], (0.5,), (0.25,))[:height, :width].sum(dtype=np.float64)
        largest = max(largest, int(height * width))
    return {"labelled": labelled, "images": images, "shown": shown, "largest": largest}


def assert_score(found, images: int):
    expected = expected_score(images)
    assert found.pop("shown") == pytest.approx(expected.pop("shown"), rel=1e-4)
    assert found == expected


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_a_run_trains_and_evaluates_every_image_once(tmp_path, mode):
    train(build_run(annotated(parallel__mode=mode)), tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert all(np.isfinite(line["train/loss"]) for line in lines if "train/loss" in line)
    last = [line for line in lines if "eval/labelled" in line][-1]
    assert_score({name: last[f"eval/{name}"] for name in ("labelled", "images", "shown", "largest")}, IMAGES)


@pytest.mark.parametrize("images", [None, 7, 1])
def test_a_split_has_its_first_images(images, capsys):
    split = Split(annotated(), "test", None, images)
    batches = list(split.batches("seen"))
    size = min(4, split.images)
    assert split.batch_size == size and split.images == (images or IMAGES)
    assert all(batch["image"].shape[0] == size for batch in batches)
    assert sum(int(batch["mask"].sum()) for batch in batches) == split.images
    # The end of its progress is the end of its batches.
    assert f"step {len(batches)}/{len(batches)} " in capsys.readouterr().err
    source = fake_source(annotated())
    sizes = [
        tuple(row)
        for b in batches
        for row, m in zip(np.asarray(b["annotation_size"]), b["mask"], strict=True)
        if m
    ]
    assert sorted(sizes) == sorted(source.size_of(i) for i in range(split.images))


def test_batches_have_few_shapes():
    batches = list(Split(annotated(data__fake_images=60), "test", None).host_batches())
    assert len({batch["image"].shape for batch in batches}) in (2, 3)
    assert {batch["image"].shape[1:3] for batch in batches} <= set(BUCKETS)


def test_processes_read_their_rows():
    """Two halves of the devices, as if each belonged to a process."""
    whole = list(Split(annotated(), "test", None).host_batches())

    class Half(Parallel):
        def rows(self, batch_size, accumulate=1):
            return list(range(batch_size // 2))

    half = list(Split(annotated(), "test", None, parallel=Half()).host_batches())
    assert len(half) == len(whole)
    for one, other in zip(half, whole, strict=True):
        assert all(np.array_equal(one[name], other[name][:2]) for name in other)


# Keys


def test_every_key_arrives():
    config = annotated(data__resize_ratio=(0.7, 1.5), data__largest_share=0.6)
    assert build_preprocess(config) == SegmentationPreprocess(
        size=(16, 32),
        mean=(0.5,),
        std=(0.25,),
        buckets=Buckets(16, 48, BUCKETS, (16, 16)),
        augmentation="resize_crop_flip",
        resize_ratio=(0.7, 1.5),
        largest_share=0.6,
        photometric=True,
    )
    assert build_source(config, "test") == FakeAnnotated(IMAGES, (16, 32, 3), CLASSES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"data.buckets": ((16, 30),)},
            "config.data.buckets=((16, 30),) has (16, 30): height and width must be",
        ),
        ({"data.buckets": (16, 32)}, "config.data.buckets=(16, 32) has 16; expected a tuple"),
        ({"data.buckets": ((2**15, 16),)}, "config.data.buckets=((32768, 16),) must be at most 16384"),
        ({"data.short_side": 64}, "config.data.long_side=48 is below config.data.short_side=64"),
        ({"data.resize_ratio": (0.5, 20.0)}, "config.data.resize_ratio=(0.5, 20.0) must be a pair 0 < low"),
        ({"data.largest_share": 0.0}, "config.data.largest_share=0.0 must lie in (0, 1]"),
        (
            {"data.augmentation": "crop_flip"},
            "augmentation='crop_flip' is none of none, resize_crop, ",
        ),
        ({"data.events": True}, "events have no annotation of pixels, but config.data.events=True"),
        ({"data.randaugment_magnitude": 9.0}, "config.data.randaugment_magnitude=9.0 is not for images with"),
        ({"data.mixup": 0.8}, "config.data.mixup=0.8 is not for images with annotations"),
        ({"data.channels": 2}, "images have 1 or 3 channels, but config.data.channels=2"),
        ({"data.mean": (0.1, 0.2)}, "config.data.mean has 2 values for 3 channels"),
        (
            {"data.source": "digits", "data.channels": 1},
            "an example has image, label; expected an image and its annotation",
        ),
        ({"data.buckets": ((16, 16),)}, "fits none of the buckets 16x16"),
    ],
)
def test_mistakes_are_told_in_one_line(changes, told):
    config = annotated()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=re.escape(told)):
        check_config(config)
        build_run(config)
