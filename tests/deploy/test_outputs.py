"""Programs with other outputs than logits: the stages of a backbone, and a neck on two of them."""

import functools
from typing import Any

import jax
import numpy as np
import onnxruntime
import pytest

from qsdt_jax.deploy import interpreter, reference
from qsdt_jax.deploy.bundle import Bundle, write_bundle
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.graphs.onnx_integer import export_onnx
from qsdt_jax.deploy.merge import merge
from qsdt_jax.deploy.program import IMAGES, Add, Fire, Linear, Program, Resize, Step
from qsdt_jax.deploy.spike_driven import SpikeArithmetic
from qsdt_jax.deploy.validity import check_program
from qsdt_jax.errors import UserError
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.models import Backbone
from qsdt_jax.models.classifier import mean_over_time
from tests.deploy.nets import INTEGER, TINY, draw_images, draw_variables, short_net, tiny_net

FIELDS = {name: value for name, value in TINY.items() if name != "num_classes"}
WIDTH, TIMESTEPS = 6, 2


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    """Those of the backbone, without the head's."""
    drawn = draw_variables(tiny_net(timesteps=TIMESTEPS))
    return {kind: {name: drawn[kind][name] for name in drawn[kind] if name != "head"} for kind in drawn}


@pytest.fixture(scope="module")
def backbone(variables) -> Program:
    return fold(Backbone(**FIELDS, timesteps=TIMESTEPS), variables)


def convolution(name: str, x: str, channels: int, seed: int, size: int = 1) -> list[Step]:
    """A neuron and a convolution of its spikes."""
    generator = np.random.default_rng(seed)
    layer = Linear(
        name=f"{name}/conv",
        input=f"{name}/neuron",
        spikes=True,
        geometry=ConvGeometry(1, size // 2),
        bits=4,
        weights=generator.integers(-8, 8, (size, size, channels, WIDTH)).astype(np.int8),
        scale=generator.uniform(0.01, 0.1, WIDTH).astype(np.float32),
        shift=generator.uniform(-0.5, 0.5, WIDTH).astype(np.float32),
    )
    return [Fire(name=f"{name}/neuron", input=x), layer]


def with_neck(program: Program) -> Program:
    """The coarse map, enlarged, added to the fine one, as in a feature pyramid."""
    stages = dict(program.outputs)
    neck = [
        *convolution("coarse", stages["stage4"], 24, seed=1),
        *convolution("fine", stages["stage2"], 8, seed=2),
        Resize(name="enlarged", input="coarse/conv", factor=2),
        Add(name="sum", left="fine/conv", right="enlarged"),
        *convolution("smooth", "sum", WIDTH, seed=3, size=3),
    ]
    outputs = (("p3", "smooth/conv"), ("p4", "coarse/conv"))
    return program.replace(steps=(*program.steps, *neck), outputs=outputs)


@functools.partial(jax.jit, static_argnames="arithmetic")
def run(program: Program, images: jax.Array, arithmetic: interpreter.Arithmetic):
    """All values, and the outputs."""
    values = interpreter.interpret(program, images, arithmetic)
    return values, interpreter.outputs_of(program, values)


def by_form(program: Program, images: np.ndarray, file) -> dict[str, dict[str, np.ndarray]]:
    """All outputs by name, of the integer and spike-driven form, the NumPy reader and ONNX Runtime."""
    found = {}
    for name, arithmetic in {"integer": INTEGER, "spikes": SpikeArithmetic(4)}.items():
        _, found[name] = run(program, images, arithmetic)
    people = {"class_names": (), "image_size": (32, 48), "crop_ratio": 1.0, "mean": (0.0,), "std": (1.0,)}
    write_bundle(file, Bundle(program=program, **people, architecture={}, origin={}))
    manifest = reference.read(file)
    found["NumPy"] = reference.answers(manifest, reference.run(manifest, images))
    session = onnxruntime.InferenceSession(export_onnx(program, images.shape[1:3]))
    timesteps = program.neuron.timesteps
    frames = np.repeat(images[:, None], timesteps, axis=1) if timesteps > 1 else images
    names = [output.name for output in session.get_outputs()]
    found["ONNX"] = dict(zip(names, session.run(None, {IMAGES: frames}), strict=True))
    return found


@pytest.mark.slow
def test_the_stages_of_a_backbone(backbone, variables, tmp_path):
    """Every form gives what evaluation does, averaged over the time steps."""
    images, model = draw_images(2, 32, 48, 3), Backbone(**FIELDS, timesteps=TIMESTEPS)
    features: Any = jax.jit(lambda v, x: model.apply(v, x, method="features"))(variables, images)
    for form, outputs in by_form(backbone, images, tmp_path / "b.qsdt").items():
        assert outputs.keys() == features.keys(), form
        for stage, y in features.items():
            expected = mean_over_time(y.reshape(2, TIMESTEPS, *y.shape[1:]))
            np.testing.assert_array_equal(outputs[stage], expected, err_msg=f"{form}, {stage}")


@pytest.mark.slow
def test_a_neck(backbone, tmp_path):
    """Enlarged and added: equal in every form, and what NumPy's own functions make of the parts."""
    program, images = with_neck(backbone), draw_images(2, 32, 48, 3)
    check_program(program, (32, 48))
    first, *others = by_form(program, images, tmp_path / "n.qsdt").values()
    assert {name: y.shape for name, y in first.items()} == {"p3": (2, 4, 6, WIDTH), "p4": (2, 2, 3, WIDTH)}
    assert min(np.std(y) for y in first.values()) > 0.1
    for outputs in others:
        for name, y in first.items():
            np.testing.assert_array_equal(outputs[name], y, err_msg=name)
    values, _ = run(program, images, INTEGER)
    coarse, fine = (np.asarray(values[f"{name}/conv"]) for name in ("coarse", "fine"))
    np.testing.assert_array_equal(values["sum"], fine + np.kron(coarse, np.ones((1, 2, 2, 1), np.float32)))


@pytest.mark.slow
def test_an_output_that_a_neuron_reads_too(tmp_path):
    """ONNX counts in spikes what a neuron alone reads; an output has its own unit."""
    model = short_net()
    program = fold(model, draw_variables(model))
    outputs = (("current", "block3_0/attn/q_repconv/conv2"), *program.outputs)
    program, images = program.replace(outputs=outputs), draw_images(2, 32, 32, 3)
    found = by_form(program, images, tmp_path / "o.qsdt")
    shapes = {form: y["current"].shape for form, y in found.items()}
    assert set(shapes.values()) == {(2, 2, 2, 16)}
    for form, outputs in found.items():
        np.testing.assert_array_equal(outputs["current"], found["integer"]["current"], err_msg=form)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outputs": ()}, "it has no output"),
        ({"outputs": (("p3", "images"),)}, "its output p3 is images, which no step gives"),
        (
            {"outputs": (("p3", "fine/neuron"),)},
            "p3 is fine/neuron, which gives spikes; expected real values",
        ),
    ],
)
def test_what_is_refused(backbone, changes, told):
    program = with_neck(backbone)
    with pytest.raises(UserError, match=told):
        check_program(program.replace(**changes), (32, 48))


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (0, "step enlarged has the factor 0; expected 1 to 64"),
        (2.0, "step enlarged has the factor 2.0; expected 1 to 64"),
        (3, "step sum cannot be run on fine/conv .* enlarged "),
    ],
)
def test_factors_that_do_not_fit(backbone, factor, told):
    program = with_neck(backbone)
    steps = [step.replace(factor=factor) if isinstance(step, Resize) else step for step in program.steps]
    with pytest.raises(UserError, match=told):
        check_program(program.replace(steps=tuple(steps)), (32, 48))


def test_merging_keeps_outputs(backbone):
    """A value inside of a chain that is an output stays, beside the chain that is merged."""
    inside = "block3_0/attn/q_repconv/dwconv"
    merged = merge(backbone.replace(outputs=(("inside", inside),)))
    names = [step.name for step in merged.steps]
    assert inside in names and "block3_0/attn/k_repconv/dwconv" not in names
