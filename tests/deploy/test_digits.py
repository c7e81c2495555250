"""The digits network as it was trained and exported (`configs/digits.py`, seed 0), on the whole test set."""

from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.digits import get_config
from qsdt_jax.assemble.data import build_preprocess, build_source
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.data.pipeline import evaluation_batches
from qsdt_jax.deploy import reference
from qsdt_jax.deploy.bundle import read_bundle
from qsdt_jax.deploy.c.compiled import c_form, compiled, compiler
from qsdt_jax.deploy.c.export import export_c
from qsdt_jax.deploy.graphs.onnx_integer import LOGITS
from qsdt_jax.deploy.graphs.onnx_qdq import export_qdq
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import class_scores, interpret
from qsdt_jax.deploy.mistakes import SlotsAlone
from qsdt_jax.deploy.program import Fire
from qsdt_jax.deploy.spike_driven import SpikeArithmetic, spike_driven_forward
from tests.deploy.nets import differing_counts
from tests.deploy.test_forms import run_onnx
from tests.deploy.test_qdq import LEVELS, run_qdq

FILE = Path(__file__).parents[1] / "golden" / "digits.qsdt"


def test_spike_driven_form_runs_every_layer_of_spikes_slot_by_slot(monkeypatch):
    program, runs, product = read_bundle(FILE).program, Counter(), IntegerArithmetic.product

    def counted(self, spikes, layer):
        runs[layer.name] += len(spikes)
        return product(self, spikes, layer)

    monkeypatch.setattr(IntegerArithmetic, "product", counted)
    jax.eval_shape(spike_driven_forward, program, jax.ShapeDtypeStruct((1, 32, 32, 1), np.float32))
    assert runs == {layer.name: 4 for layer in program.layers if layer.spikes}


@pytest.mark.slow
def test_forms_agree_on_every_test_image():
    config, bundle = get_config(), read_bundle(FILE)
    source = build_source(config, "test")
    preprocess = build_preprocess(config)
    (batch,) = evaluation_batches(source, preprocess.evaluate, batch_size=len(source))
    images, labels = np.asarray(to_inputs(batch, preprocess.normalization)["image"]), batch["label"]

    def values_of(arithmetic):
        form = jax.jit(lambda program, x: interpret(program, x, arithmetic))
        return form(bundle.program, images)

    values = values_of(IntegerArithmetic())
    integer = np.asarray(class_scores(bundle.program, values))
    counts = {step.name: values[step.name] for step in bundle.program.steps if isinstance(step, Fire)}
    assert sum(map(np.size, counts.values())) == 16_174_080
    # In one program, of which the compiler makes what is there twice once.
    spikes, logits = jax.jit(
        lambda program, x: (interpret(program, x, SpikeArithmetic(4)), spike_driven_forward(program, x))
    )(bundle.program, images)
    assert differing_counts(counts, spikes) == {}
    assert np.array_equal(logits, integer)
    manifest = reference.read(FILE)
    assert differing_counts(counts, reference.run(manifest, images)) == {}
    assert np.array_equal(reference.forward(manifest, images), integer)
    found = run_onnx(bundle.program, images, list(counts))
    assert differing_counts(counts, found) == {} and np.array_equal(found[LOGITS], integer)
    last = bundle.program.layers[-1].input
    for level in LEVELS.values():  # A runtime's sums of real values may move a count, and that the logits.
        found = run_qdq(export_qdq(bundle.program, bundle.image_size), images, list(counts), level)
        assert np.array_equal(np.argmax(found[LOGITS], 1), np.argmax(integer, 1))
        equal = np.all(found[last] == counts[last], (1, 2, 3))
        assert np.array_equal(found[LOGITS][equal], integer[equal]) and np.mean(equal) > 0.9
    if compiler() is not None:
        source = export_c(bundle.require_program("C form"), bundle.image_size)
        outputs, found = c_form(source, compiled(source))(images)
        assert differing_counts(counts, found) == {} and np.array_equal(outputs[LOGITS], integer)
    right = np.argmax(integer, 1) == labels
    assert (right.sum(), len(right)) == (355, 360)
    # What attention loses when it is run slot by slot: most of its product, and counts and logits with it.
    alone = values_of(SlotsAlone(4))
    first = "block3_0/attn"
    kept = np.sum(alone[first], dtype=np.float64) / np.sum(values[first], dtype=np.float64)
    assert 0.05 < kept < 0.7
    name = f"{first}/attn_neuron"
    assert np.mean(alone[name] != counts[name]) > 0.1
    assert sum(differing_counts(counts, alone).values()) == 535_136
    scores = np.asarray(class_scores(bundle.program, alone))
    assert np.linalg.norm(scores - integer) > 0.1 * np.linalg.norm(integer)
    assert np.sum(np.argmax(scores, 1) == labels) == 352
