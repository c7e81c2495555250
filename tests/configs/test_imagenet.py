"""The ImageNet recipes and their variants."""

import json
from unittest import mock

import pytest

from configs import imagenet_l, imagenet_m, imagenet_s
from launch import train
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.workdir.workdir import config_differences
from tests.launch.tiny import launch

SIZES = pytest.mark.parametrize("size", [imagenet_s, imagenet_m, imagenet_l])


@SIZES
def test_published_code_differs_in_three_values(size):
    paper = json.loads(json.dumps(size.get_config().to_dict()))
    assert config_differences(paper, size.get_config("published").to_dict()) == [
        "data.erase_probability was 0.0, is 0.25",
        "ema_decay was 0.0, is 0.99996",
        "optimizer.warmup_epochs was 10.0, is 15.0",
    ]


@SIZES
def test_preprocessing(size):
    expected = {
        "size": (224, 224),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "augmentation": "crop_flip",
        "crop_area": (0.08, 1.0),
        "crop_aspect": (3 / 4, 4 / 3),
        "randaugment_magnitude": 9.0,
        "randaugment_std": 0.5,
        "evaluation_crop_ratio": 0.875,
    }
    assert build_preprocess(size.get_config()) == Preprocess(**expected)
    assert build_preprocess(size.get_config("published")) == Preprocess(**expected, erase_probability=0.25)


@pytest.mark.parametrize("name", ["s", "m", "l"])
def test_unknown_variant_is_one_line(name, tmp_path, capfd):
    config = f"configs/imagenet_{name}.py"
    assert launch("train", f"--config={config}:publisht", f"--workdir={tmp_path / 'run'}") == 2
    expected = (
        f"error: --config {config}: ValueError: unknown variant 'publisht'; the only one is 'published'\n"
    )
    assert capfd.readouterr().err == expected
    assert not (tmp_path / "run").exists()


def test_variant_from_the_command_line(capfd):
    """With an override on top, up to the run that would start."""
    arguments = "--config=configs/imagenet_s.py:published", "--config.data.source=fake"
    with mock.patch.object(train, "train", return_value={"final": {}, "best": {}}) as started:
        code = launch("train", *arguments, "--config.data.fake_images=2000", "--workdir=unused")
    assert code == 0, capfd.readouterr().err
    run = started.call_args.args[0]
    assert run.ema_decay == 0.99996
    assert run.config["data"]["erase_probability"] == 0.25 and run.config["data"]["fake_images"] == 2000
