"""Augmentation and mixing from a configuration, every value checked."""

import math
import re

import pytest

from configs import digits, digits_dvs
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.classes import numbers
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.errors import UserError

NAN = math.nan


def test_digits_are_moved_and_nothing_else():
    expected = Preprocess(size=(32, 32), mean=(0.31,), std=(0.35,), augmentation="affine")
    assert build_preprocess(digits.get_config()) == expected
    task = build_task(digits.get_config(), numbers(10))
    assert (task.mixup_alpha, task.cutmix_alpha) == (0, 0)


def test_every_key_arrives():
    config = base_config()
    config.data.update(
        {
            "image_size": (32, 48),
            "mean": (0.1, 0.2, 0.3),
            "std": (0.4, 0.5, 0.6),
            "augmentation": "crop_flip",
            "crop_area": (0.3, 0.9),
            "crop_aspect": (0.5, 1.5),
            "randaugment_magnitude": 7.0,
            "randaugment_std": 0.7,
            "randaugment_operations": 3,
            "erase_probability": 0.2,
            "eval_crop_ratio": 0.9,
            "mixup": 0.8,
            "cutmix": 1.0,
        }
    )
    assert build_preprocess(config) == Preprocess(
        size=(32, 48),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        augmentation="crop_flip",
        crop_area=(0.3, 0.9),
        crop_aspect=(0.5, 1.5),
        randaugment_magnitude=7.0,
        randaugment_std=0.7,
        randaugment_operations=3,
        erase_probability=0.2,
        evaluation_crop_ratio=0.9,
    )
    task = build_task(config, numbers(2))
    assert (task.mixup_alpha, task.cutmix_alpha) == (0.8, 1.0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("augmentation", "crop", "data.augmentation='crop' is none of none, affine, crop_flip"),
        ("randaugment_magnitude", 10.5, "randaugment_magnitude=10.5 must be at least 0 and at most 10"),
        ("randaugment_magnitude", -1.0, "randaugment_magnitude=-1.0 must be at least 0 and at most 10"),
        ("randaugment_std", NAN, "config.data.randaugment_std=nan must be at least 0"),
        ("erase_probability", 1.5, "config.data.erase_probability=1.5 must be at least 0 and at most 1"),
        ("eval_crop_ratio", 0.0, "config.data.eval_crop_ratio=0.0 must lie in (0, 1]"),
        ("eval_crop_ratio", 1.1, "config.data.eval_crop_ratio=1.1 must lie in (0, 1]"),
        ("eval_crop_ratio", NAN, "config.data.eval_crop_ratio=nan must lie in (0, 1]"),
        ("crop_area", (0.5, 0.1), "crop_area=(0.5, 0.1) must be a pair 0 < low <= high <= 1"),
        ("crop_area", (0.5, 1.1), "crop_area=(0.5, 1.1) must be a pair 0 < low <= high <= 1"),
        ("crop_area", (0.0, 1.0), "crop_area=(0.0, 1.0) must be a pai"),
        ("crop_area", (0.1,), "crop_area=(0.1,) must be a pai"),
        ("crop_area", ("small", 1.0), "crop_area=('small', 1.0) must be a pai"),
        ("crop_aspect", (0.5, math.inf), "crop_aspect=(0.5, inf) must be a pair 0 < low <= high"),
        ("photometric", True, "config.data.photometric=True is for images with annotations; expected False"),
        ("mixup", -0.1, "config.data.mixup=-0.1 must be at least 0"),
        ("cutmix", math.inf, "config.data.cutmix=inf must be at least 0"),
    ],
)
def test_values_out_of_range(key, value, message):
    config = base_config()
    config.data[key] = value
    with pytest.raises(UserError, match=re.escape(message)):
        check_config(config)
        build_preprocess(config)
        build_task(config, numbers(2))


def test_randaugment_needs_an_image():
    config = base_config()
    config.data.update({"channels": 2, "mean": (0.5,), "std": (0.5,), "randaugment_magnitude": 9.0})
    with pytest.raises(UserError, match=r"RandAugment takes 1 or 3 channels, but .*channels=2"):
        build_preprocess(config)


@pytest.mark.parametrize("channels", [2, 3])
def test_events_have_two_channels_or_a_third_with_their_sum(channels):
    config = digits_dvs.get_config()
    config.data.channels = channels
    assert build_preprocess(config).channels == channels
    config.data.channels = 4
    told = "events have 2 channels, or 3 with the sum of both polarities, but config.data.channels=4"
    with pytest.raises(UserError, match=told):
        build_preprocess(config)
