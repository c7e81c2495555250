"""`bench input`: images like ImageNet's through every stage of the input."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.inspect import input_speed
from qsdt_jax.inspect.input_speed import jpegs, measure_input
from tests.launch.tiny import launch


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(input_speed, "SECONDS", 0.0)
    monkeypatch.setattr(input_speed, "REPEATS", 1)
    monkeypatch.setattr(input_speed, "IMAGES", 8)
    monkeypatch.setattr(input_speed, "BATCH", 4)
    monkeypatch.setattr(input_speed, "usable_cpus", lambda: 1)


def test_images_are_like_imagenets():
    source = jpegs()
    assert 90_000 < np.mean([len(encoded) for encoded in source.encoded]) < 130_000
    assert len(set(source.encoded)) == len(source) == 8
    image = Image.open(io.BytesIO(source.encoded[3]))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (500, 400))
    np.testing.assert_array_equal(source[3]["image"], np.asarray(image))


def test_report(capsys):
    assert launch("bench", "input") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    stages = ["decode", "decode, crop, flip", "all of training"]
    assert list(report["stages"]) == [*stages, "decode, evaluation"]
    assert list(report["pipeline"]) == ["threads", "1 worker processes"]
    assert all(rate > 0 for rates in ("stages", "pipeline") for rate in report[rates].values())
    assert report["images"]["input_size"] == [224, 224] and report["cores"] == 1
    # Bytes of an image; a box and a key of random erasing.
    assert report["images"]["bytes_to_device"] == 224 * 224 * 3 + 4 * 4 + 2 * 4
    assert "JPEGs of 500x400" in err and all(name in err for name in stages)


@pytest.mark.parametrize("buckets", [(), ((64, 96),)])
def test_report_of_images_with_annotations(monkeypatch, buckets):
    """The source gives pairs, and all stages take them; by threads alone, which start at once.

    Also where the config has buckets, which are for its data and too small for images of 400x500.
    """
    pipeline = input_speed._pipeline
    monkeypatch.setattr(
        input_speed, "_pipeline", lambda source, preprocess, count: pipeline(source, preprocess, 0)
    )
    config = base_config()
    config.task.name = "tests.assemble.annotated_task:TASK"
    config.data.update({"augmentation": "resize_crop_flip", "photometric": True, "image_size": (64, 96)})
    config.data.buckets = buckets
    report = measure_input(config)
    stages = ["decode", "decode, crop, flip", "all of training", "decode, evaluation"]
    assert list(report["stages"]) == stages
    assert all(rate > 0 for rates in ("stages", "pipeline") for rate in report[rates].values())
    assert report["images"]["input_size"] == [64, 96]
    assert report["images"]["bytes_to_device"] == 64 * 96 * (3 + 1) + 2 * 4
    example = jpegs(annotated=True)[3]
    image, annotation = (example[name] for name in ("image", "annotation"))
    np.testing.assert_array_equal(image, jpegs()[3]["image"])
    # A JPEG is not its photograph to the last level.
    red = np.abs(image[..., 0] // 64 - (annotation // 16).astype(int))
    assert annotation.shape == image.shape[:2] and np.mean(red == 0) > 0.95


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["output"], "bench output: expected nothing or input"),
        (["input", "--config=configs/digits_dvs.py"], "expected a config of images with"),
        (["input", "--config=configs/digits.py"], "expected a config of images with"),
    ],
)
def test_mistakes(capsys, words, told):
    assert launch("bench", *words) == 2
    assert f"error: {told}" in capsys.readouterr().err
