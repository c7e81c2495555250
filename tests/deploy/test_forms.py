"""Training, integer and spike-driven form, NumPy reference and ONNX: equal counts and logits, bit for bit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from qsdt_jax.deploy import reference
from qsdt_jax.deploy.agreement import training_form
from qsdt_jax.deploy.bundle import Bundle, write_bundle
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.graphs.onnx_integer import LOGITS, export_onnx
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import IMAGES, Linear, Program
from qsdt_jax.deploy.spike_driven import SpikeArithmetic, unroll
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.models import SIZES, QSDTransformer
from tests.deploy.nets import (
    INTEGER,
    deployed_form,
    differing_counts,
    draw_images,
    draw_variables,
    short_net,
    tiny_net,
)

slow = pytest.mark.slow
NETS = {
    "4 bits, D = 4": {},
    "1 bit, D = 1": {"bits": 1, "levels": 1},
    "2 bits, D = 8, frames": {"bits": 2, "levels": 8, "timesteps": 3, "in_channels": 2},
    "8 bits, D = 7, norm": {"bits": 8, "levels": 7, "rectify": "norm", "attention_scale": 0.3},
    "LIF, hard reset": {
        "neuron": "lif",
        "levels": 1,
        "timesteps": 4,
        "reset": "hard",
        "attention_scale": 0.7,
    },
    "the input decays, no layer scales": {
        "levels": 2,
        "timesteps": 3,
        "decay": 0.3,
        "decay_input": True,
        "reset": "hard",
        "attention_scale": 2.0,
        "attention_gain": 1.0,
        "layer_scale": False,
    },
    "I-LIF, norm, two heads": {
        "neuron": "i_lif",
        "bits": 5,
        "levels": 2,
        "timesteps": 2,
        "rectify": "norm",
        "distillation_head": True,
    },
}
NETS["2, 4, 8 and 1 bits"] = {
    "bits_rules": (
        BitsRule(pattern=r"downsample1_1/conv|.*/[qk]_repconv/.*", bits=8),
        BitsRule(pattern=r".*/(mlp|sepconv)/.*", bits=2),
        BitsRule(pattern="downsample4/conv|.*/v_repconv/dwconv", bits=1),
    ),
}
# Tried on one block of each kind.
SHORT = (
    "2 bits, D = 8, frames",
    "8 bits, D = 7, norm",
    "2, 4, 8 and 1 bits",
    "the input decays, no layer scales",
)
nets = pytest.mark.parametrize(
    ("net", "fields"),
    [
        pytest.param(short_net if name in SHORT else tiny_net, fields, id=name, marks=slow)
        for name, fields in NETS.items()
    ],
)


def bundle_of(program: Program, file) -> reference.Manifest:
    """The program as the NumPy reader finds it in a bundle."""
    names = tuple(map(str, range(program.num_classes)))
    bundle = Bundle(
        crop_ratio=1.0,
        program=program,
        class_names=names,
        image_size=(32, 48),
        mean=(0.0,),
        std=(1.0,),
        architecture={},
        origin={},
    )
    write_bundle(file, bundle)
    return reference.read(file)


def assert_forms_agree(model, variables, images, file) -> None:
    outputs, counts = training_form(model, variables)(images)
    logits = outputs["logits"]
    program = fold(model, variables)
    assert_spikes_flow(counts, model.backbone.levels)
    assert np.mean(np.ptp(np.asarray(logits), axis=0) > 1e-3) > 0.8 or len(images) == 1  # The images differ.

    for name, arithmetic in {
        "integer": INTEGER,
        "spike-driven": SpikeArithmetic(model.backbone.levels),
    }.items():
        values, scores = deployed_form(program, images, arithmetic)
        assert differing_counts(counts, values) == {}, name
        assert np.array_equal(scores, logits), name

    bundle = bundle_of(program, file)
    assert differing_counts(counts, reference.run(bundle, images)) == {}
    found = reference.forward(bundle, images)
    assert found.dtype == np.float32 and np.array_equal(found, logits)

    values = run_onnx(program, images, list(counts))
    assert differing_counts(counts, values) == {}
    assert values[LOGITS].dtype == np.float32 and np.array_equal(values[LOGITS], logits)


def run_onnx(program: Program, images: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """The logits and the named counts, by ONNX Runtime with all its optimizations."""
    timesteps = program.neuron.timesteps
    if images.ndim == 4 and timesteps > 1:
        images = np.repeat(images[:, None], timesteps, axis=1)
    session = onnxruntime.InferenceSession(export_onnx(program, images.shape[-3:-1], also=names))
    outputs = [LOGITS, *names]
    return dict(zip(outputs, session.run(outputs, {IMAGES: images}), strict=True))


def assert_spikes_flow(counts, levels) -> None:
    """No layer is silent or saturated, and all levels occur, so that equality says something."""
    for name, c in counts.items():
        assert 0.02 < np.mean(c) / levels < 0.98, name
    assert set(np.unique(np.concatenate([np.ravel(c) for c in counts.values()]))) == set(range(levels + 1))


@nets
def test_forms_agree_to_the_bit(net, fields, tmp_path):
    """Where there are frames, another image in every time step."""
    model = net(**fields)
    shape = (2, 3, 48, 16, 2) if model.backbone.in_channels == 2 else (3, 32, 48, 3)
    assert_forms_agree(model, draw_variables(model), draw_images(*shape), tmp_path / "model.qsdt")


@slow
def test_forms_agree_on_size_s(tmp_path):
    model = QSDTransformer(**SIZES["S"])
    images = draw_images(1, 224, 224, 3)
    assert_forms_agree(model, draw_variables(model), images, tmp_path / "model.qsdt")


@pytest.fixture(scope="module")
def evaluated() -> tuple[dict, np.ndarray, np.ndarray]:
    """Variables of a net of 4 bits, images and their logits in its evaluation."""
    model = short_net()
    variables, images = draw_variables(model), draw_images(3, 32, 48, 3)
    return variables, images, np.asarray(jax.jit(model.apply)(variables, images))


@slow
def test_an_image_is_classified_alike_alone_and_among_others(evaluated):
    variables, images, together = evaluated
    alone = jax.jit(short_net().apply)(variables, images[1:2])
    assert np.array_equal(alone[0], together[1]) and np.ptp(together[:, 0]) > 1e-3


@slow
def test_operand_types_of_training_change_no_bit_of_evaluation(evaluated):
    variables, images, logits = evaluated
    for model in (short_net(dtype=jnp.bfloat16), short_net(spike_dtype=jnp.int8)):
        assert np.array_equal(jax.jit(model.apply)(variables, images), logits)


@slow
def test_without_exact_evaluation_the_last_bits_differ():
    """And nothing else: what `exact_evaluation` costs is not spent in vain, nor missed by much."""
    model = tiny_net()
    variables, images = draw_variables(model), draw_images(2, 32, 32, 3)

    def stage(model, variables, images):
        return jax.jit(lambda v, x: model.apply(v, x, method="features")["stage1"])(variables, images)

    fast = model.clone(backbone=model.backbone.clone(exact_evaluation=False))
    assert not np.array_equal(stage(model, variables, images), stage(fast, variables, images))
    with jax.enable_x64(True):
        model = tiny_net(dtype=jnp.float64, param_dtype=jnp.float64)
        double = jax.tree.map(lambda x: x.astype(np.float64), (variables, images))
        fast = model.clone(backbone=model.backbone.clone(exact_evaluation=False))
        np.testing.assert_allclose(stage(fast, *double), stage(model, *double), rtol=0, atol=1e-12)


# --- The spike-driven form -----------------------------------------------------------------------------


def test_thermometer_code():
    counts = np.random.default_rng(0).integers(0, 6, (4, 5)).astype(np.int8)
    slots = np.stack(unroll(jnp.asarray(counts), 5))
    assert set(np.unique(slots)) == {0, 1}
    assert np.array_equal(slots.sum(0), counts)
    assert np.all(np.diff(slots.astype(int), axis=0) <= 0)  # Spikes come first.


def test_product_with_spikes_is_made_of_additions():
    """Each slot adds the weights that its spikes select: no multiplication in this reference."""
    model = tiny_net()
    layer = next(
        x for x in fold(model, draw_variables(model)).layers if x.name == "conv_block1_1/sepconv/pwconv1"
    )
    counts = np.random.default_rng(0).integers(0, 5, (2, 3, 4, layer.weights.shape[2])).astype(np.int8)
    weights = np.asarray(layer.weights[0, 0], np.int32)
    expected = np.zeros((2, 3, 4, weights.shape[1]), np.int32)
    for d in range(4):
        for index in np.argwhere(counts > d):
            *pixel, channel = index
            expected[tuple(pixel)] += weights[channel]
    found = SpikeArithmetic(4).product(jnp.asarray(counts), layer)
    assert found.dtype == jnp.int32 and np.array_equal(found, expected)


@pytest.mark.parametrize("levels", [1, 3])
def test_every_operand_is_a_binary_spike(levels, monkeypatch):
    """All D slots in a layer, and in attention D^2 products for k^T v and D for q (k^T v)."""
    operands, generator = [], np.random.default_rng(0)
    convolve, einsum = IntegerArithmetic.product, jnp.einsum

    def product(self, spikes, layer):
        operands.append([spikes])
        return convolve(self, spikes, layer)

    def contraction(subscripts, *terms, **options):
        # The second operand of q (k^T v) is what the spikes of q select.
        operands.append(terms if subscripts == "nlhc,nlhd->nhcd" else terms[:1])
        return einsum(subscripts, *terms, **options)

    monkeypatch.setattr(IntegerArithmetic, "product", product)
    monkeypatch.setattr(jnp, "einsum", contraction)
    arithmetic = SpikeArithmetic(levels)
    layer = Linear(
        name="layer",
        input="neuron",
        spikes=True,
        geometry=ConvGeometry(1, 1),
        bits=4,
        weights=generator.integers(-8, 8, (3, 3, 4, 5)).astype(np.int8),
        scale=np.ones(5, np.float32),
        shift=np.zeros(5, np.float32),
    )
    counts = [jnp.asarray(generator.integers(0, levels + 1, (2, 6, 4)), jnp.int8) for _ in range(3)]
    arithmetic.product(counts[0].reshape(2, 2, 3, 4), layer)
    [[slots]] = operands
    assert slots.shape == (levels * 2, 2, 3, 4)
    arithmetic.attention(*counts, heads=2)
    assert len(operands) == 1 + levels**2 + levels
    for spikes in itertools.chain(*operands):
        assert spikes.dtype in (jnp.int8, jnp.int32) and set(np.unique(spikes)) == {0, 1}


def test_layers_of_real_inputs_are_the_ones_declared():
    model = tiny_net()
    real = [layer.name for layer in fold(model, draw_variables(model)).layers if not layer.spikes]
    assert len(real) == 1 + 4 + 2 * 8
    assert all(
        name == "downsample1_1/conv" or name.endswith(("sepconv/pwconv2", "repconv/dwconv", "repconv/conv2"))
        for name in real
    )
