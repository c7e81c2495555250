"""The table of all keys: complete, and true to the library that its plain data stand for."""

import math
from pathlib import Path
from typing import get_args

import pytest

from qsdt_jax.assemble.build import OPTIMIZERS
from qsdt_jax.assemble.network import DTYPES
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import KEYS, base_config
from qsdt_jax.configuration.keys import value_of
from qsdt_jax.configuration.page import configuration_page
from qsdt_jax.configuration.rules import OneOf, Sides, Within
from qsdt_jax.data.events.frames import Slicing
from qsdt_jax.data.randaugment import LARGEST_MAGNITUDE
from qsdt_jax.errors import UserError
from qsdt_jax.losses.distillation import Target
from qsdt_jax.losses.fgd import Normalization
from qsdt_jax.models.backbone import STRIDE
from qsdt_jax.tasks.distillation import Schedule


def test_every_key_says_what_it_means():
    for name, key in KEYS.items():
        assert key.meaning and not key.meaning.endswith("."), name


def test_the_defaults_are_allowed():
    config = base_config().lock()
    check_config(config)
    assert all(value_of(config, name) == key.default for name, key in KEYS.items())
    config.model.decay = 0.5  # A key without a value so far takes a number.


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("model.dtype", tuple(DTYPES)),
        ("distill.dtype", tuple(DTYPES)),
        ("optimizer.name", tuple(OPTIMIZERS)),
        ("data.slicing", get_args(Slicing)),
        ("distill.fgd_normalization", get_args(Normalization)),
        ("distill.fgd_schedule", get_args(Schedule)),
        ("distill.kd_target", get_args(Target)),
    ],
)
def test_choices_are_those_of_the_library(key, choices):
    assert KEYS[key].rule == OneOf(choices)


def test_numbers_are_those_of_the_library():
    assert KEYS["data.image_size"].rule == Sides(STRIDE)
    assert KEYS["data.randaugment_magnitude"].rule == Within(0, LARGEST_MAGNITUDE)


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.rule is not None])
def test_every_rule_refuses_something(name):
    """And tells the key and the value."""
    config, default = base_config(), KEYS[name].default
    wrong = {int: -7, float: math.nan, str: "?", tuple: (math.nan,)}[type(default)]
    config.update_from_flattened_dict({name: wrong})
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert str(caught.value).startswith(f"config.{name}={wrong!r}")


def test_the_page_of_all_keys_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == configuration_page()
