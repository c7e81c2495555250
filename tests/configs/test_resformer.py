"""The published runs of SpikingResformer."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar_resformer, imagenet_resformer
from qsdt_jax.assemble.build import build_schedule
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.network import build_model
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.models import create_model


@pytest.mark.parametrize("size", imagenet_resformer.CHANNELS)
def test_the_network_is_the_published_one_of_that_name(size):
    config = imagenet_resformer.get_config(size)
    check_config(config)
    group = 0 if size == "l" else config.batch_size // 8
    expected = create_model(f"spikingresformer_{size}", norm_group=group, dtype=jnp.bfloat16)
    assert build_model(config, 1000) == expected


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("cifar10", create_model("spikingresformer_cifar", dtype=jnp.bfloat16)),
        ("cifar100_transfer", create_model("spikingresformer_s", num_classes=10, dtype=jnp.bfloat16)),
    ],
)
def test_the_networks_of_cifar(variant, expected):
    config = cifar_resformer.get_config(variant)
    check_config(config)
    assert build_model(config, 10) == expected


@pytest.mark.parametrize("variant", cifar_resformer.VARIANTS)
def test_images_of_cifar_are_whole_and_in_their_own_normalisation(variant):
    config = cifar_resformer.get_config(variant)
    data, small, first = config.data, "transfer" not in variant, variant.partition("_")[0] == "cifar10"
    assert config.epochs == (600 if small else 100 if first else 150)
    assert data.mean[0] == pytest.approx(0.4914 if first else 0.5071, abs=1e-4)
    assert data.std[2] == pytest.approx(0.2010 if first else 0.2761, abs=1e-4)
    assert (data.mixup, data.cutmix, data.randaugment_operations) == (0.5, 0.0, 1)
    assert (data.randaugment_magnitude, data.randaugment_std) == ((7, 0.5) if small else (9, 0.4))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data.image_size, data.randaugment_magnitude = (32, 32), 0.0
    preprocess, generator = build_preprocess(config), np.random.default_rng(0)
    seen = {preprocess.train({"image": image}, generator)["image"].tobytes() for _ in range(20)}
    assert seen == {image.tobytes(), image[:, ::-1].tobytes()}


@pytest.mark.parametrize(("size", "peak"), [("ti", 1e-3), ("s", 1e-3), ("m", 8e-4), ("l", 5e-4)])
def test_the_rate_is_not_scaled_and_ends_at_a_hundred_thousandth(size, peak):
    rates = build_schedule(imagenet_resformer.get_config(size), epoch=10, total_steps=3200)
    np.testing.assert_allclose([rates(0), rates(30), rates(3200)], [0, peak, 1e-5], rtol=1e-5)


@pytest.mark.parametrize("config", [imagenet_resformer, cifar_resformer])
def test_an_unknown_run_is_told(config):
    with pytest.raises(ValueError, match=r"unknown \w+ 'xl'; there are "):
        config.get_config("xl")
