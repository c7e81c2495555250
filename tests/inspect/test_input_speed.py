"""`bench input`: images like ImageNet's through every stage of the input."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.inspect import input_speed
from qsdt_jax.inspect.input_speed import jpegs
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
