"""NeuroBench's counts of a small network against loops over its weights, spikes and real values."""

import csv
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import interpret
from qsdt_jax.deploy.program import IMAGES, LOGITS, Attend, Fire, Linear, Pool, Program
from qsdt_jax.deploy.spike_driven import unroll
from qsdt_jax.energy.rates import Activity, measure_activity
from qsdt_jax.energy.report import csv_table, make_report, neurobench_csv, neurobench_table
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.tasks.accuracy import Accuracy
from tests.deploy.nets import draw_images

LEVELS, TIMESTEPS, SIZE = 3, 2, (7, 6)


def linear(name: str, x: str, shape: tuple[int, ...], geometry: ConvGeometry, spikes: bool = True) -> Linear:
    """Half of its weights are zero."""
    generator = np.random.default_rng(len(name))
    weights = generator.integers(-8, 8, shape) * generator.integers(0, 2, shape)
    vector = np.full(shape[-1], 0.08, np.float32)
    return Linear(
        name=name, input=x, spikes=spikes, geometry=geometry, bits=4, weights=weights.astype(np.int8),
        scale=vector, shift=vector,
    )  # fmt: skip


def network() -> Program:
    """A stem, grouped and depthwise convolutions with strides and padding, real values inside, attention."""
    point = ConvGeometry()
    return Program(
        steps=(
            linear("stem", IMAGES, (3, 3, 2, 4), ConvGeometry(2, 1), spikes=False),
            Fire(name="neuron", input="stem"),
            linear("grouped", "neuron", (3, 2, 2, 6), ConvGeometry(1, 1, 2)),
            linear("depthwise", "grouped", (3, 3, 1, 6), ConvGeometry(2, 0, 6), spikes=False),
            *(linear(f"{x}_point", "depthwise", (1, 1, 6, 6), point, spikes=False) for x in "qkv"),
            *(Fire(name=x, input=f"{x}_point") for x in "qkv"),
            Attend(name="attn", q="q", k="k", v="v", heads=2, scale=0.2),
            Pool(name="pool", input="attn"),
            Fire(name="last", input="pool"),
            linear("head", "last", (1, 1, 6, 10), point),
        ),
        neuron=make_neuron("ie_lif", levels=LEVELS, timesteps=TIMESTEPS),
        outputs=((LOGITS, "head"),),
    )


def effective(x: np.ndarray, layer: Linear, outputs: tuple[int, int]) -> int:
    """Pairs of a nonzero input (N, H, W, I) and a nonzero weight, found one by one."""
    (height, width, per_group, channels), found = layer.weights.shape, 0
    stride, padding = layer.geometry.stride, layer.geometry.padding
    for n, row, column, o in itertools.product(range(len(x)), *map(range, outputs), range(channels)):
        first = o // (channels // layer.geometry.groups) * per_group
        for i, j, c in itertools.product(range(height), range(width), range(per_group)):
            y, z = row * stride + i - padding, column * stride + j - padding
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                found += bool(x[n, y, z, first + c] != 0 and layer.weights[i, j, c, o] != 0)
    return found


def test_counts_against_loops():
    """Three images and one of padding; spikes slot by slot."""
    program, images = network(), draw_images(3, *SIZE, 2)
    images[0, :3] = 0  # Real values that are zero.
    padded = {"image": images[[0, 1, 2, 0]], "label": np.arange(4), "mask": np.array([1, 1, 1, 0])}
    halves = [{name: rows[part] for name, rows in padded.items()} for part in (slice(2), slice(2, 4))]
    activity = measure_activity(program, halves, Accuracy())
    values = jax.device_get(interpret(program, jnp.asarray(images), IntegerArithmetic()))

    pairs: dict[str, int] = {}
    for layer in program.layers:
        x = np.asarray(values[layer.input])
        slots = unroll(x, LEVELS) if layer.spikes else [x]
        pairs[layer.name] = sum(effective(slot, layer, values[layer.name].shape[1:3]) for slot in slots)
    outputs = zeros = 0
    for step in program.steps:
        if isinstance(step, Fire):
            for slot in unroll(np.asarray(values[step.name]), LEVELS):
                outputs += slot.size
                zeros += int((slot == 0).sum())
    assert min(pairs.values()) > 0 and 0 < zeros < outputs
    weights = np.concatenate([np.ravel(layer.weights) for layer in program.layers])

    found = make_report(program, SIZE, activity).neurobench
    acs = (pairs["grouped"] + pairs["head"]) / 3
    assert found.effective_acs == pytest.approx(acs, abs=0, rel=1e-12)
    assert found.effective_macs == pytest.approx((sum(pairs.values())) / 3 - acs, rel=1e-12)
    assert found.connection_sparsity == np.sum(weights == 0) / weights.size
    assert found.activation_sparsity == pytest.approx(zeros / outputs, rel=1e-12)
    assert found.membrane_updates == outputs / LEVELS / 3  # In each of two time steps, by image.
    assert {name: round(3 * number) for name, number in activity.effective.items()} == pairs


def test_tables():
    program = network()
    counts = {name: np.array([6, 1, 1, 0]) for name in ("neuron", "q", "k", "v", "last")}
    activity = Activity(counts, {"top1": 50.0}, 2, {"stem": 1200.5, "grouped": 34.0, "head": 1.25})
    report = make_report(program, SIZE, activity)
    names, numbers = zip(*neurobench_table(report), strict=True)
    assert names[1:] == (
        "connection sparsity", "activation sparsity", "effective MACs", "effective ACs", "membrane updates"
    )  # fmt: skip
    assert numbers[2:] == ("0.8750", "1,200", "35", "20")
    assert "effective ACs,35.25\n" in neurobench_csv(report)
    layers = csv.DictReader(csv_table(report).splitlines())
    found = {row["layer"]: row["effective_operations"] for row in layers}
    assert found["stem"] == "1200.5" and found["head"] == "1.25" and found["attn/k^T v"] == ""

    unmeasured = make_report(program, SIZE, Activity(counts, {"top1": 50.0}, 2))
    assert [name for name, _ in neurobench_table(unmeasured)] == [*names[:3], names[-1]]
