"""Entropy, mutual information, bimodality and spikes against what NumPy makes of the same values."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from qsdt_jax.deploy.agreement import training_form
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.information import HeadDistributions, entropy, measure
from qsdt_jax.models import Segmenter
from tests.deploy.nets import draw_images, draw_variables, short_net

MODEL = short_net(exact_evaluation=False)


def distributions(u: np.ndarray, c: np.ndarray) -> HeadDistributions:
    """Of one head."""
    joint, _, _ = np.histogram2d(u, c, [np.linspace(-1, 2, 25), np.arange(6) - 0.5])
    moments = np.array([[np.mean(u**k) for k in (1, 2, 3, 4)]])
    return HeadDistributions(joint=joint[None], moments=moments)


def test_entropy():
    assert entropy(np.array([[5, 0, 0, 0], [3, 3, 0, 0], [2, 2, 2, 2]])).tolist() == [0, 1, 2]


def test_bimodality_of_known_distributions():
    generator = np.random.default_rng(0)
    counts = np.zeros(200_000)
    for u, expected in (
        (generator.normal(0.5, 0.2, 200_000), 1 / 3),
        (generator.random(200_000), 5 / 9),
        (generator.integers(0, 2, 200_000) * 0.7 + 0.1, 1.0),
    ):
        assert distributions(u, counts).bimodality[0] == pytest.approx(expected, abs=0.01)


def test_mutual_information():
    """All of the count where the potential decides it, none where they have nothing to do with each other."""
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 5, 100_000)
    decided = distributions(counts / 4 + 0.01, counts)
    assert decided.mutual_information[0] == pytest.approx(decided.count_entropy[0])
    assert decided.count_entropy[0] == pytest.approx(np.log2(5), abs=1e-3)
    independent = distributions(generator.random(100_000), counts)
    assert independent.mutual_information[0] == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
def test_counts_are_those_of_the_network_and_padding_counts_for_nothing():
    variables, images = draw_variables(MODEL), draw_images(5, 32, 32, 3)
    _, counts = training_form(MODEL, variables)(images)
    batches = [
        {"image": images[:3], "mask": np.ones(3)},
        {"image": np.stack([*images[3:], images[0]]), "mask": np.array([1, 1, 0])},
    ]
    found = measure(MODEL, variables, batches)
    assert found.spikes.keys() == counts.keys()
    for name, number in found.spikes.items():
        assert number == pytest.approx(float(np.sum(counts[name])) / 5, rel=1e-6), name
    blocks = [f"block3_0/attn/{x}" for x in "qkv"]
    assert sorted(found.after) == sorted(found.before) == sorted(blocks)
    for name, after in found.after.items():
        own = np.asarray(counts[f"{name}_neuron"])
        heads = np.moveaxis(
            own.reshape(-1, MODEL.backbone.num_heads, own.shape[-1] // MODEL.backbone.num_heads), 1, 0
        )
        expected = [[np.sum(head == c) for c in range(5)] for head in heads]
        np.testing.assert_array_equal(after.joint.sum(1), expected)
        assert found.before[name].joint.sum() == after.joint.sum()
        assert np.any(found.before[name].joint != after.joint)


def test_a_network_without_spikes():
    with pytest.raises(UserError, match="no spiking neurons"):
        measure(short_net(neuron="relu"), flatten_dict({}), [])


@pytest.mark.slow
def test_what_is_no_image_is_not_measured():
    """As many potentials and spikes as tokens and pixels of the image give, of arrays of any size."""
    model = Segmenter(MODEL.backbone, num_classes=3, fpn_channels=8)
    variables, images = draw_variables(model), draw_images(2, 32, 48, 3)
    batch = {"image": images, "mask": np.ones(2)}
    whole = measure(model, variables, [batch])
    sized = measure(model, variables, [{**batch, "size": np.array([[32, 48], [32, 48]])}])
    assert sized.spikes == whole.spikes
    part = measure(model, variables, [{**batch, "size": np.array([[32, 48], [17, 9]])}])
    for name, before in part.before.items():
        # 2 x 3 tokens and 2 x 1.
        assert before.joint.sum() * 12 == whole.before[name].joint.sum() * 8
    only = measure(model, variables, [{**batch, "mask": np.array([1, 0])}])
    assert all(only.spikes[name] / 2 <= number for name, number in part.spikes.items())
    assert sum(part.spikes.values()) < sum(whole.spikes.values())
