"""Networks that cannot be folded: layers, spikes and energy of the training form."""

import dataclasses

import jax
import numpy as np
import pytest

from qsdt_jax.deploy.fold import fold
from qsdt_jax.energy.layer import Layer
from qsdt_jax.energy.operations import layers_of
from qsdt_jax.energy.rates import measure_activity
from qsdt_jax.energy.report import make_report
from qsdt_jax.energy.unfolded import Unfolded
from qsdt_jax.errors import UserError
from qsdt_jax.models import SpikingResformer
from qsdt_jax.models.sdtv2 import SDTV2
from qsdt_jax.models.shapes import variable_shapes
from qsdt_jax.tasks.accuracy import Accuracy
from tests.deploy.nets import draw_images, draw_variables, short_net
from tests.launch.tiny import draw

SIZE = (32, 48)
RESFORMER = SpikingResformer(
    channels=(8, 8, 16), num_heads=(1, 1, 2), depths=(1, 1, 1), group_size=8, small_images=True,
    num_classes=10, timesteps=2,
)  # fmt: skip


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    """Without what the border of a RepConv changes, which a program has in the output of the layer before."""
    before_border = [layer.name for layer in layers if layer.name.endswith("repconv/conv1")]
    assert len(before_border) == 4
    return {
        layer.name: dataclasses.replace(layer, outputs=0, stride=0) if layer.name in before_border else layer
        for layer in layers
    }


def batches() -> list[dict[str, np.ndarray]]:
    """The last image is padding."""
    images = draw_images(3, *SIZE, 3)
    return [{"image": images, "label": np.arange(3), "mask": np.array([1, 1, 0])}]


@pytest.mark.slow
def test_what_can_be_folded_has_the_same_layers_and_counts_both_ways():
    """Found by other code: the folded program and its integer form."""
    model = short_net(timesteps=2)
    variables = draw_variables(model)
    program, network = fold(model, variables), Unfolded(model, variables, SIZE)
    folded, unfolded = layers_of(program, SIZE), layers_of(network, SIZE)
    assert by_name(unfolded) == by_name(folded)
    expected = measure_activity(program, batches(), Accuracy())
    found = measure_activity(network, batches(), Accuracy())
    assert list(found.histograms) == list(expected.histograms) and found.images == 2
    for name, histogram in expected.histograms.items():
        np.testing.assert_array_equal(found.histograms[name], histogram, err_msg=name)
    assert found.metrics == pytest.approx(expected.metrics)
    reports = [make_report(p, SIZE, activity) for p, activity in ((program, expected), (network, found))]
    assert reports[0].bits == reports[1].bits
    for name in ("paper", "as computed", "bit-aware"):  # The border is memory.
        assert tuple(reports[1].totals[name]) == pytest.approx(tuple(reports[0].totals[name]))


def test_a_spikingresformer():
    """Additions by hand from the counts of two images; stem and head multiply real values."""
    variables = draw(variable_shapes(RESFORMER), 1)
    network = Unfolded(RESFORMER, variables, SIZE)
    activity = measure_activity(network, batches(), Accuracy())
    report = make_report(network, SIZE, activity)
    images = batches()[0]["image"][:2]
    counts = jax.jit(lambda network, x: network.spikes(x)[1])(network, images)
    assert list(activity.histograms) == network.neurons() and len(counts) == 3 * 6 + 2
    for name, spikes in counts.items():
        assert activity.histograms[name].tolist() == [(spikes == 0).sum(), (spikes == 1).sum()], name
    rows = {row.layer.name: row for row in report.layers}
    # Of stage 2: 16 x 24 tokens, 8 x 12 patches of 2 x 2. A spike of s is in one of them, with 2C outputs.
    s, a = (counts[f"stage2_dssa0/{name}"] for name in ("neuron", "attn_neuron"))
    assert rows["stage2_dssa0/patch_conv"].additions == pytest.approx(s.sum() / 2 * 16)
    assert rows["stage2_dssa0/Y1 s^T"].additions == pytest.approx(s.sum() / 2 * 96)
    assert rows["stage2_dssa0/A^T Y2"].additions == pytest.approx(a.sum() / 2 * 8)
    real = rows["stem/conv"].layer.macs + rows["head"].layer.macs
    assert report.multiplications == real == 2 * (32 * 48 * 9 * 3 * 8 + 16 * 10)
    expected = 4.6 * real + 0.9 * report.additions
    assert report.totals["as computed"].spiking == pytest.approx(expected)
    assert rows["stage3_dssa0/Y1 s^T"].layer.stride == 4 and report.bits == (32,)


def test_folding_says_what_cannot_be_folded():
    with pytest.raises(UserError, match=r"^a SpikingResformer .* float, .* in stage1_dssa0, .* 1 to 8 bits$"):
        fold(RESFORMER, draw(variable_shapes(RESFORMER), 1))
    with pytest.raises(UserError, match=r"^the network has float weights \(bits=32\), .* 1 to 8 bits$"):
        model = short_net(**SDTV2)
        fold(model, draw_variables(model))
    with pytest.raises(UserError, match=r"^block3_0/attn/attn_neuron has a threshold of its own \(0\.5\); "):
        model = short_net(**{**SDTV2, "bits": 4})
        fold(model, draw_variables(model))
