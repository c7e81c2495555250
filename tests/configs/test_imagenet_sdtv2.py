"""The two runs of Spike-driven Transformer V2."""

import jax.numpy as jnp
import pytest

from configs.imagenet_sdtv2 import CHANNELS, get_config
from qsdt_jax.assemble.network import build_backbone
from qsdt_jax.data.classes import numbers
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.teachers import find_teacher
from qsdt_jax.models import create_model


@pytest.mark.parametrize("size", CHANNELS)
@pytest.mark.parametrize("second", [False, True])
def test_the_network_is_the_published_one_of_that_name(size, second):
    config = get_config(size + "_t4" * second)
    expected = create_model(
        f"sdtv2_{size}",
        timesteps=4 if second else 1,
        norm_group=24 if second else 128,
        dtype=jnp.bfloat16,
    )
    assert build_backbone(config) == expected.backbone
    assert config.model.distillation_head == second


def test_the_second_run_needs_its_teacher():
    with pytest.raises(
        UserError, match=r"config\.distill has a weight, but config\.distill\.teacher names none"
    ):
        find_teacher(get_config("s_t4"), numbers(1000))


def test_an_unknown_variant_is_told():
    with pytest.raises(ValueError, match="unknown variant 'm_t2'; there are s, m, l, xl, s_t4"):
        get_config("m_t2")
