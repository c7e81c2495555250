"""A segmentation network in all deployed forms: every count and every pixel's logits, bit for bit."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from qsdt_jax.deploy import agreement, reference
from qsdt_jax.deploy.bundle import Bundle, read_bundle, write_bundle
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.graphs.onnx_integer import export_onnx
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import IMAGES, LOGITS, Program
from qsdt_jax.deploy.spike_driven import SpikeArithmetic
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import BitsRule
from tests.deploy.nets import draw_images, draw_variables, tiny_segmenter

NETS = {
    "D = 2, tokens, bits by layer": {
        "levels": 2,
        "attention_tokens": 10,
        "bits_rules": (BitsRule(pattern=r"(fpn|seg_head)/.*", bits=2), BitsRule(pattern=".*/conv1", bits=8)),
    },
    "float neck and head": {
        "levels": 4,
        "attention_tokens": 10,
        "bits_rules": (BitsRule(pattern=r"(fpn|seg_head)/.*", bits=32),),
    },
    "T = 2, D = 1, gain": {"levels": 1, "timesteps": 2, "neuron_input_gain": 0.7},
}
# Two images, of which a row of tokens and half of a token are padding, and a row of padding in the batch.
SIZES = np.array([[32, 48], [9, 40], [0, 0]], np.int32)


def bundle_of(program: Program, file: Path) -> Bundle:
    bundle = Bundle(
        program=program,
        class_names=tuple("abcde"),
        image_size=(32, 48),
        crop_ratio=1.0,
        mean=(0.0,),
        std=(1.0,),
        architecture={},
        origin={},
    )
    write_bundle(file, bundle)
    return bundle


@pytest.mark.slow
@pytest.mark.parametrize("fields", [pytest.param(fields, id=name) for name, fields in NETS.items()])
def test_forms_agree_on_every_pixel(fields, tmp_path):
    model = tiny_segmenter(**fields)
    variables, images = draw_variables(model), draw_images(3, 32, 48, 3)
    program = fold(model, variables)
    bundle_of(program, tmp_path / "model.qsdt")
    read = read_bundle(tmp_path / "model.qsdt").program
    assert read.outputs == program.outputs == ((LOGITS, "seg_head/classifier"),) and read.num_classes == 5
    forms = {
        "training form": agreement.training_form(model, variables),
        "integer form": agreement.deployed_form(read, IntegerArithmetic()),
        "spike-driven form": agreement.deployed_form(program, SpikeArithmetic(model.backbone.levels)),
        "NumPy reader": agreement.reader_form(reference.read(tmp_path / "model.qsdt")),
    }
    batch = {"image": images, "size": SIZES, "mask": np.array([1, 1, 0])}
    found = agreement.compare(forms, [batch])
    for name, comparison in found.items():
        assert (comparison.different_counts, comparison.different_outputs) == ({}, {}), name
        assert comparison.outputs == {LOGITS: 2 * 16 * 24 * 5} and comparison.counts > 3e4

    padded, counts = forms["training form"](images, SIZES)
    whole, others = forms["training form"](images, np.array([[32, 48]] * 3, np.int32))
    padded, whole = padded[LOGITS], whole[LOGITS]
    assert np.array_equal(padded[0], whole[0]) and not np.array_equal(padded[1], whole[1])
    for name, c in counts.items():
        assert 0.01 < np.mean(c) / model.backbone.levels < 0.99, name
    assert np.mean(np.ptp(np.asarray(whole), axis=(1, 2)) > 1e-2) > 0.9  # Pixels differ.

    # ONNX takes images without padding.
    names = list(others)
    session = onnxruntime.InferenceSession(export_onnx(program, (32, 48), also=names))
    timesteps = program.neuron.timesteps
    frames = np.repeat(images[:, None], timesteps, axis=1) if timesteps > 1 else images
    logits, *emitted = session.run([LOGITS, *names], {IMAGES: frames})
    assert logits.shape == (3, 16, 24, 5) and np.array_equal(logits, whole)
    for name, c in zip(names, emitted, strict=True):
        assert np.array_equal(np.ravel(c), np.ravel(others[name])), name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"bits_rules": (BitsRule(pattern="block3_0/.*|fpn/.*", bits=32),)},
            r"^block3_0/attn/q_repconv/dwconv, block3_0/attn/q_repconv/conv2, .* and \d more layers have "
            r"float weights \(32 bits by bits_rules\) and real values to multiply, so there are no integers",
        ),
        (
            {"bits": 32, "bits_rules": (BitsRule(pattern="block.*", bits=4),)},
            r"have float weights \(bits=32\)",
        ),
    ],
)
def test_float_weights_of_real_values_are_named(fields, told):
    """And of spikes where most layers are float, for there evaluation is not exact."""
    model = tiny_segmenter(**fields)
    with pytest.raises(UserError, match=told):
        fold(model, draw_variables(model))
