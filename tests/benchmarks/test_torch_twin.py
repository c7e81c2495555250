"""The PyTorch twin against our network; the other tests of `bench --beside torch` need no torch."""

from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install -r benchmarks/torch_twin/requirements.txt")

from benchmarks.torch_twin import agreement  # noqa: E402
from qsdt_jax.data.classes import numbers  # noqa: E402
from qsdt_jax.errors import UserError  # noqa: E402
from qsdt_jax.tasks.classification import Classification  # noqa: E402
from tests.deploy.nets import tiny_net  # noqa: E402


def tiny_task(**overrides) -> Classification:
    return Classification(
        model=tiny_net(**overrides), image_shape=(32, 32, 3), class_names=numbers(10), label_smoothing=0.1
    )


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Our side of the comparison, which is the same in all tests."""
    compare, found = agreement._of_ours, []

    def once(*arguments):
        if not found:
            found.append(compare(*arguments))
        return found[0]

    with mock.patch.object(agreement, "_of_ours", once):
        yield


@pytest.mark.slow
def test_logits_loss_gradients_and_statistics_are_equal():
    assert agreement.require_equal(tiny_task()) < 1e-9


def other_attention(twin):
    twin.block4[0].attn.scale = 0.125


def other_momentum(twin):
    twin.downsample2.encode_bn.momentum = 0.01


def other_gain(twin):
    twin.block3[0].attn.out_neuron.step = 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_attention, "in .*"),
        (other_gain, "in .*"),
        (other_momentum, "in downsample2.encode_bn.running_(mean|var)"),
    ],
)
def test_a_twin_that_differs_is_refused(change, told, monkeypatch):
    forward = agreement.Twin.forward

    def changed(self, x):
        change(self)
        return forward(self, x)

    monkeypatch.setattr(agreement.Twin, "forward", changed)
    with pytest.raises(
        UserError, match=f"^the PyTorch twin differs from the network {told} by .*: not timed$"
    ):
        agreement.require_equal(tiny_task())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"timesteps": 2}, "timesteps=1 alone, found 2"),
        ({"attention_threshold": 0.25}, "attention_threshold=None alone, found 0.25"),
        ({"layer_scale": False}, "layer_scale=True alone, found False"),
        ({"rectify": "norm"}, "rectify='bn' alone, found 'norm'"),
        ({"bits": 32}, "2 to 8 bits"),
    ],
)
def test_what_the_twin_lacks_is_refused(overrides, told):
    with pytest.raises(UserError, match=told):
        agreement.twin_of(tiny_net(**overrides))


def test_not_a_number_is_a_deviation():
    ours, its = ({"logits": np.ones(2), "gradient of w": np.array([1.0, x])} for x in (1.0, np.nan))
    deviation, name = agreement.largest_deviation(ours, its)
    assert np.isnan(deviation) and name == "gradient of w"
