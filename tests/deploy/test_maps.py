"""Attention to padded images, enlarged maps and gains: a small program, by every reader of programs."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.data.dense.buckets import Buckets, grid_of
from qsdt_jax.deploy import interpreter, reference
from qsdt_jax.deploy.bundle import Bundle, read_bundle, write_bundle
from qsdt_jax.deploy.graphs.onnx_integer import export_onnx
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import IMAGES, Attend, Bilinear, Fire, Linear, Program
from qsdt_jax.deploy.spike_driven import SpikeArithmetic
from qsdt_jax.deploy.validity import check_program
from qsdt_jax.errors import UserError
from qsdt_jax.layers.lowering import ConvGeometry
from tests.deploy.nets import draw_images
from tests.deploy.test_bundle_numbers import written

STRIDE, CHANNELS = 16, 4


def small_program(tokens: int = 0, timesteps: int = 1) -> Program:
    """Every 16th pixel; the attention of its spikes; twice as many pixels of that."""
    generator = np.random.default_rng(1)
    stem = Linear(
        name="stem",
        input=IMAGES,
        spikes=False,
        geometry=ConvGeometry(STRIDE, 0),
        bits=8,
        weights=generator.integers(-90, 90, (1, 1, 3, CHANNELS)).astype(np.int8),
        scale=np.full(CHANNELS, 0.01, np.float32),
        shift=np.full(CHANNELS, 0.4, np.float32),
    )
    steps = (
        stem,
        Fire(name="neuron", input="stem", input_gain=0.7),
        Attend(name="attn", q="neuron", k="neuron", v="neuron", heads=2, scale=0.3, tokens=tokens),
        Bilinear(name="wide", input="attn"),
    )
    neuron = make_neuron(levels=3, timesteps=timesteps)
    return Program(steps=steps, neuron=neuron, outputs=(("logits", "wide"),))


def bundle_of(program: Program) -> Bundle:
    people: Any = {"class_names": ("a", "b", "c", "d"), "image_size": (32, 48), "crop_ratio": 1.0}
    return Bundle(program=program, **people, mean=(0.0,), std=(1.0,), architecture={}, origin={})


def interpreted(program, images, arithmetic, sizes=None):
    return jax.device_get(interpreter.interpret(program, jnp.asarray(images), arithmetic, sizes))


@pytest.mark.parametrize("tokens", [0, 10])
def test_a_padded_image_attends_as_it_does_alone(tokens, tmp_path):
    """Its valid tokens, cut out, give the same; what they are in the batch plays no role."""
    program, images = small_program(tokens, timesteps=2), draw_images(3, 32, 64, 3)
    sizes = np.array([[32, 64], [10, 33], [1, 16]], np.int32)  # 2x4, 1x3 and 1x1 tokens.
    check_program(program, (32, 64))
    padded = interpreted(program, images, IntegerArithmetic(), sizes)
    for i, (rows, columns) in enumerate([(2, 4), (1, 3), (1, 1)]):
        alone = interpreted(program, images[i : i + 1, : 16 * rows, : 16 * columns], IntegerArithmetic())
        assert np.array_equal(padded["attn"][2 * i : 2 * i + 2, :rows, :columns], alone["attn"]), i
    assert np.std(padded["attn"]) > 0.1
    write_bundle(tmp_path / "m.qsdt", bundle_of(program))
    read = reference.run(reference.read(tmp_path / "m.qsdt"), images, sizes)
    slots = interpreted(program, images, SpikeArithmetic(3), sizes)
    for name, expected in padded.items():
        assert np.array_equal(read[name], expected) and np.array_equal(slots[name], expected), name
    k, factor = padded["neuron"].astype(int), np.float32(0.3)  # By hand, the first head of the second image.
    q = k[2].reshape(8, 4)[:, :2]
    inside = q[[0, 1, 2]]
    if tokens:
        factor = factor * (np.float32(10) / np.float32(3))
    expected = (q @ (inside.T @ inside)).astype(np.float32) * factor
    assert np.array_equal(padded["attn"][2].reshape(8, 4)[:, :2], expected)


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_onnx_enlarges_attends_and_fires_alike(size):
    program, images = small_program(tokens=5), draw_images(2, *size, 3)
    session = onnxruntime.InferenceSession(export_onnx(program, size, also=["neuron"]))
    logits, counts = session.run(["logits", "neuron"], {IMAGES: images})
    values = interpreted(program, images, IntegerArithmetic())
    assert np.array_equal(counts, values["neuron"]) and np.ptp(counts) > 1
    assert np.array_equal(logits, values["wide"])
    low = values["attn"].astype(np.float64)
    rows = np.concatenate([low[:, :1], low, low[:, -1:]], 1)
    near = 0.75 * low[:, 0] + 0.25 * rows[:, 0]  # The first row of the result, before the columns.
    np.testing.assert_allclose(logits[:, 0, 0], near[:, 0], rtol=1e-6)


def test_bundles_with_and_without_what_is_new(tmp_path):
    """What an older reader can read is written as it was."""
    program = small_program()
    stem, _, attend, _ = program.steps
    steps, outputs = (stem, Fire(name="neuron", input="stem"), attend), (("logits", "attn"),)
    for name, stored, version in [
        ("old", program.replace(steps=steps, outputs=outputs), 1),
        ("new", small_program(tokens=7), 2),
    ]:
        file = tmp_path / name
        write_bundle(file, bundle_of(stored))
        content = file.read_bytes()
        assert int.from_bytes(content[8:12], "little") == version
        found = read_bundle(file).program
        assert jax.tree.structure(found) == jax.tree.structure(stored)
    manifest, _ = reference.split(content)
    assert manifest["steps"][1]["input_gain"] == 0.7 and manifest["steps"][2]["tokens"] == 7


def test_bits_of_each_layer_are_stored_with_it(tmp_path):
    program = small_program()
    stem = program.steps[0]
    narrow = stem.replace(name="narrow", bits=2, weights=np.array([[[[-2, -1, 0, 1]] * 3]], np.int8))
    program = program.replace(steps=(narrow, *program.steps))
    write_bundle(tmp_path / "m.qsdt", bundle_of(program))
    manifest = reference.read(tmp_path / "m.qsdt")
    assert "bits" not in manifest and [manifest["steps"][i]["bits"] for i in (0, 1)] == [2, 8]
    assert np.array_equal(manifest["steps"][0]["weights"], narrow.weights)
    assert np.array_equal(manifest["steps"][1]["weights"], stem.weights)
    assert read_bundle(tmp_path / "m.qsdt").program.bits == program.bits == (2, 8)


@pytest.mark.parametrize(("size", "groups"), [(1, 1), (3, 1), (3, CHANNELS)])
def test_float_weights_of_spikes_by_every_reader(size, groups, tmp_path):
    """Digits of weights that differ by a factor of thousands; the sum of three rounded numbers."""
    generator, program = np.random.default_rng(size), small_program()
    stem, fire, *_ = program.steps
    shape = (size, size, CHANNELS // groups, CHANNELS)
    weights = generator.normal(size=shape) * np.array([1, 1e-4, 3e3, 0])
    layer = Linear(
        name="float",
        input="neuron",
        spikes=True,
        geometry=ConvGeometry(1, size // 2, groups),
        bits=32,
        weights=weights.astype(np.float32),
        scale=generator.uniform(0.1, 1, CHANNELS).astype(np.float32),
        shift=generator.normal(size=CHANNELS).astype(np.float32),
    )
    program = program.replace(steps=(stem, fire, layer), outputs=(("logits", "float"),))
    check_program(program, (32, 48))
    images = draw_images(2, 32, 48, 3)
    values = interpreted(program, images, IntegerArithmetic())
    counts = values["neuron"].astype(np.float64)
    assert np.ptp(counts) == 3
    p = size // 2
    padded = np.pad(counts, ((0, 0), (p, p), (p, p), (0, 0)))
    expected = np.zeros(values["float"].shape)
    for i, j in np.ndindex(size, size):
        seen, tap = padded[:, i : i + 2, j : j + 3], layer.weights[i, j].astype(np.float64)
        expected += seen * tap[0] if groups > 1 else seen @ tap
    sizes = np.abs(layer.weights).max((0, 1, 2)) * 3 * size * size * CHANNELS
    exact = expected * layer.scale + layer.shift
    assert np.all(np.abs(values["float"] - exact) <= 2.0**-22 * (sizes + np.abs(layer.shift)))

    write_bundle(tmp_path / "m.qsdt", bundle_of(program))
    assert int.from_bytes((tmp_path / "m.qsdt").read_bytes()[8:12], "little") == 3
    again = read_bundle(tmp_path / "m.qsdt").program
    np.testing.assert_array_equal(again.layers[1].weights, layer.weights)
    read = reference.run(reference.read(tmp_path / "m.qsdt"), images)
    session = onnxruntime.InferenceSession(export_onnx(program, (32, 48)))
    (logits,) = session.run(["logits"], {IMAGES: images})
    slots = interpreted(program, images, SpikeArithmetic(3))
    for found in (read["float"], slots["float"], logits):
        np.testing.assert_array_equal(found, values["float"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda manifest: manifest.pop("bits"), "KeyError: 'bits'"),
        (lambda manifest: manifest["steps"][0].update(bits="8"), "weights of '8' bits; expected 1 to 8"),
        (
            lambda manifest: manifest["steps"][0].update(bits=32),
            "weights of 32 bits; expected 1 to 8, or",
        ),
        (lambda manifest: manifest["steps"][0]["scale"].pop("crc32"), "KeyError: 'crc32'"),
        (lambda manifest: manifest["steps"][0].update(weights=3), "TypeError: "),
        (lambda manifest: manifest.update(steps=["stem"]), "TypeError: "),
        (lambda manifest: manifest.pop("data_bytes"), "KeyError: 'data_bytes'"),
    ],
)
def test_the_reader_alone_refuses_a_manifest_by_another_hand(change, told, tmp_path):
    """Always with a ValueError, as it promises to who has copied it."""
    file = tmp_path / "m.qsdt"
    write_bundle(file, bundle_of(small_program(tokens=7)))
    manifest, data = reference.split(file.read_bytes())
    change(manifest)
    written(file, manifest, bytes(data))
    with pytest.raises(ValueError, match=told):
        reference.read(file)


def test_how_images_are_shown_whole_is_stored(tmp_path):
    file, stored = tmp_path / "m.qsdt", bundle_of(small_program())
    buckets = Buckets(short_side=32, long_side=64, sizes=((32, 64), (64, 32)), grid=grid_of((32, 48)))
    for told in (buckets, dataclasses.replace(buckets, sizes=()), None):
        write_bundle(file, dataclasses.replace(stored, buckets=told))
        assert read_bundle(file).buckets == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"short_side": 65},
            "short_side 65 and long_side 64; expected whole numbers of pixels, at",
        ),
        ({"short_side": 1.5}, "short_side 1.5 and long_side 64; expected"),
        ({"long_side": 2**40}, "and long_side 1099511627776; expected"),
        ({"buckets": [[32, 40]]}, "images of 32x40 pixels; expected multiples of 16"),
        ({"buckets": [[32, 2**40]]}, "images of 32x1099511627776 pixels; expected at most 16384 a side"),
        ({"buckets": 3}, "TypeError: "),
        ({"buckets": [["a", "b"]]}, "images of axb pixels"),
        ({"buckets": [[16384, 16384]]}, "sums in attn can reach"),
    ],
)
def test_what_is_refused_of_images_shown_whole(change, told, tmp_path):
    file = tmp_path / "m.qsdt"
    write_bundle(file, dataclasses.replace(bundle_of(small_program()), buckets=Buckets(32, 64, ((32, 64),))))
    manifest, data = reference.split(file.read_bytes())
    manifest["image"].update(change)
    if "sums" in told:
        manifest["neuron"]["levels"] = 100
    written(file, manifest, bytes(data))
    with pytest.raises(UserError, match=told):
        read_bundle(file)


@pytest.mark.parametrize("scale", [1e38, 1e39, float("inf"), float("nan")])
def test_a_scale_of_attention_that_float32_does_not_hold(scale):
    """Times the tokens it is meant for; NumPy does not warn of it."""
    program = small_program(tokens=10)
    steps = tuple(s.replace(scale=scale) if isinstance(s, Attend) else s for s in program.steps)
    with warnings.catch_warnings(), pytest.raises(UserError, match="the scale of attn is"):
        warnings.simplefilter("error")
        check_program(program.replace(steps=steps), (32, 48))


@pytest.mark.parametrize(
    ("index", "change", "told"),
    [
        (0, {"bits": 9}, "stem has weights of 9 bits; expected 1 to 8"),
        (0, {"bits": 4}, "weights of stem reach -84; expected -8 to 7, which 4 bits hold"),
        (1, {"input_gain": 0.0}, "step neuron has the gain 0.0; expected a positive number"),
        (1, {"input_gain": "x"}, "step neuron has the gain 'x'; expected a positive number"),
        (2, {"tokens": -1}, "step attn has -1 tokens; expected 0 to 16777216"),
        (3, {"input": "neuron"}, "step wide takes real values, but neuron gives spikes"),
    ],
)
def test_what_is_refused(index: int, change, told):
    steps = list(small_program().steps)
    steps[index] = steps[index].replace(**change)
    with pytest.raises(UserError, match=told):
        check_program(small_program().replace(steps=tuple(steps)), (32, 48))
