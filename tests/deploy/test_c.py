"""The C form: compiled strictly it gives the counts and logits of the NumPy reader, bit for bit."""

import ctypes
import functools
import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qsdt_jax.core.lsq import weight_range
from qsdt_jax.core.neurons import Neuron, make_neuron
from qsdt_jax.data.images import Normalization
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.deploy import reference
from qsdt_jax.deploy.bundle import read_bundle
from qsdt_jax.deploy.c.compiled import STRICT, as_argument, c_form, compiled, compiler, run_compiler
from qsdt_jax.deploy.c.export import CODE, HEADER, Source, export_c
from qsdt_jax.deploy.c.memory import Life, places
from qsdt_jax.deploy.c.tables import comment, quoted, real, table
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.program import IMAGES, LOGITS, Attend, Fire, Linear, Pool, Program, Resize, Step
from qsdt_jax.errors import UserError
from qsdt_jax.layers.lowering import ConvGeometry
from tests.deploy.nets import differing_counts, draw_images, draw_variables, short_net
from tests.deploy.test_forms import bundle_of

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no gcc or cc")
DIGITS = Path(__file__).parents[1] / "golden" / "digits.qsdt"
# Neuron, bits of most weights, and whether those of layers that receive spikes are float.
NETS = {
    "IE-LIF, D = 1": (make_neuron(levels=1), 1, False),
    "IE-LIF, D = 4": (make_neuron(levels=4), 4, False),
    "IE-LIF, T = 3": (make_neuron(levels=8, timesteps=3), 3, False),
    "LIF, hard reset": (make_neuron("lif", levels=1, timesteps=4, reset="hard"), 5, False),
    "I-LIF, float weights": (make_neuron("i_lif", levels=2, timesteps=2), 4, True),
    "quantized ReLU, 8 bits": (make_neuron("quantized_relu", levels=7, timesteps=2), 8, False),
}
# Takes images one after the other and gives their logits; then it tells its buffers.
PROGRAM = """\
#include <stdio.h>
#include "qsdt_model.c"
int main(void)
{
    static float images[QSDT_TIMESTEPS * QSDT_HEIGHT * QSDT_WIDTH * QSDT_CHANNELS], logits[QSDT_CLASSES];
    while (fread(images, sizeof(images), 1, stdin) == 1) {
        qsdt_forward_real(images, logits);
        fwrite(logits, sizeof(logits), 1, stdout);
    }
    return sizeof(reals) + sizeof(counts) + sizeof(sums) + sizeof(products) + sizeof(remainders)
           + sizeof(digits) == QSDT_BUFFER_BYTES ? 0 : 3;
}
"""


@functools.cache
def short_program() -> Program:
    """With one block of each kind, so each kind of layer."""
    model = short_net()
    return fold(model, draw_variables(model))


def varied(neuron: Neuron, bits: int, floats: bool) -> Program:
    """The program with another neuron and other weights through which spikes flow, gains and tokens."""
    generator, program = np.random.default_rng(5), short_program()
    smallest, largest = weight_range(bits)

    def step_of(step: Step) -> Step:
        match step:
            case Linear():
                shape = step.weights.shape
                weights = generator.integers(-largest, largest, shape, endpoint=True)
                if bits == 1:
                    weights = generator.choice([-1, 1], shape)
                weights.flat[0] = smallest
                size = np.sqrt(np.prod(weights.shape[:3])) * np.std(weights) * (1 if step.spikes else 0.3)
                scale = generator.uniform(0.5, 1.5, step.scale.shape) / size
                step = step.replace(bits=bits, weights=weights.astype(np.int8), scale=np.float32(scale))
                if floats and step.spikes:
                    real = generator.standard_normal(weights.shape, np.float32)
                    return step.replace(bits=32, weights=real * np.float32(largest))
                return step
            case Fire():
                return step.replace(input_gain=1.7)
            case Attend():
                return step.replace(scale=1 / neuron.levels**3, tokens=9)
            case _:
                return step

    return program.replace(steps=tuple(map(step_of, program.steps)), neuron=neuron)


@needs_compiler
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_counts_and_logits_are_those_of_the_reader(net, tmp_path):
    """Another image in every time step."""
    program = varied(*net)
    images = draw_images(2, program.neuron.timesteps, 48, 32, 3)
    values = reference.run(manifest := bundle_of(program, tmp_path / "model.qsdt"), images)
    source = export_c(program, (48, 32))
    outputs, counts = c_form(source, compiled(source))(images)
    assert differing_counts(counts, values) == {}
    assert all(0.02 < np.mean(c) / program.neuron.levels < 0.98 for c in counts.values())
    expected = reference.class_scores(manifest, values)
    assert np.array_equal(outputs[LOGITS], expected) and np.ptp(expected[:, 0]) > 0


@needs_compiler
@pytest.mark.parametrize("pooled", [False, True])
def test_digits_of_real_values_are_those_of_the_reader(pooled, tmp_path):
    """Halves of a unit go to the even one, and what is small beside 2^-64 counts from there."""
    halves = (np.random.default_rng(1).integers(-40, 40, (8, 4, 4, 1)) + 0.5) * 2.0**-22
    largest = 2.0 ** np.reshape([0, 1, -1, 40, -60, -63, -66, -120], (8, 1, 1, 1))
    images = (largest * halves).astype(np.float32)
    images[:, 0, 0] = largest[:, 0, 0]
    classes, kernel = (1, (1, 1, 1, 1)) if pooled else (16, (4, 4, 1, 16))
    product = Linear(
        name="product",
        input="mean" if pooled else IMAGES,
        spikes=False,
        geometry=ConvGeometry(),
        bits=2,
        weights=np.eye(classes, dtype=np.int8).reshape(kernel),
        scale=np.ones(classes, np.float32),
        shift=np.zeros(classes, np.float32),
    )
    steps = (Pool(name="mean", input=IMAGES), product) if pooled else (product,)
    program = Program(steps=steps, neuron=make_neuron(), outputs=((LOGITS, "product"),))
    source = export_c(program, (4, 4))
    expected = reference.forward(bundle_of(program, tmp_path / "model.qsdt"), images)
    outputs, _ = c_form(source, compiled(source))(images)
    assert outputs[LOGITS].tobytes() == expected.tobytes() and len(np.unique(expected)) > 6


@pytest.fixture(scope="module")
def digits() -> tuple[Source, np.ndarray, np.ndarray]:
    """The C form of the digits network, a dozen images as bytes and their logits."""
    bundle, source = read_bundle(DIGITS), DigitsSource("test")
    images = np.stack([np.asarray(source[i]["image"]) for i in range(12)])
    assert images.dtype == np.uint8 and images.shape[1:] == (*bundle.image_size, 1)
    pixels = Normalization(bundle.mean, bundle.std).table(1)
    exported = export_c(
        bundle.require_program("C form"), bundle.image_size, pixels=pixels, class_names=bundle.class_names
    )
    return exported, images, reference.forward(reference.read(DIGITS), pixels[images, 0])


@needs_compiler
@pytest.mark.parametrize("options", [STRICT, ("-std=gnu99", "-O3", "-march=native")], ids=["strict", "fast"])
def test_digits_from_bytes(digits, options):
    """By itself gcc would join products and sums here where the machine can: the file forbids it."""
    source, images, expected = digits
    library = compiled(source, options)
    room = (ctypes.c_uint8 * 1_000_000)()  # For the counts that are told.
    for image, logits in zip(images, expected, strict=True):
        ctypes.c_void_p.in_dll(library, "qsdt_traced").value = ctypes.addressof(room)
        library.qsdt_forward(as_argument(image), as_argument(found := np.zeros(10, np.float32)))
        assert np.array_equal(found, logits)


@needs_compiler
def test_the_program_of_the_guide_compiles(digits, tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "export.md").read_text()
    (tmp_path / HEADER).write_text(digits[0].header)
    (tmp_path / "main.c").write_text(guide.partition("```c\n")[2].partition("```")[0])
    run_compiler(*STRICT, "-c", tmp_path / "main.c", "-o", tmp_path / "main.o")
    assert (tmp_path / "main.o").exists()


@needs_compiler
def test_neither_bounds_nor_whole_numbers_are_passed(tmp_path):
    """Under the sanitizers; the images reach from zero to what float32 holds, and one is no number."""
    program, size = varied(*NETS["I-LIF, float weights"]), (32, 32)
    source = export_c(program, size)
    for name, text in ((CODE, source.code), (HEADER, source.header), ("main.c", PROGRAM)):
        (tmp_path / name).write_text(text)
    sanitizers = ("-fsanitize=undefined,float-cast-overflow,address", "-fno-sanitize-recover=all")
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    try:
        run_compiler(*sanitizers, tmp_path / "empty.c", "-o", tmp_path / "empty")
    except UserError as error:
        pytest.skip(f"no sanitizers: {error}")
    run_compiler(*STRICT, *sanitizers, tmp_path / "main.c", "-o", tmp_path / "main")
    image = draw_images(1, 2, *size, 3)
    images = np.concatenate([image, 0 * image, 1e30 * image, 1e-30 * image, np.nan * image, np.inf * image])
    run = subprocess.run(
        [tmp_path / "main"],
        input=images.tobytes(),
        capture_output=True,
        env={"ASAN_OPTIONS": "detect_leaks=0"},
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    found = np.frombuffer(run.stdout, np.float32).reshape(6, 10)
    manifest = bundle_of(program, tmp_path / "model.qsdt")
    assert np.array_equal(found[:4], reference.forward(manifest, images[:4]))


@needs_compiler
def test_names_and_numbers_survive(tmp_path):
    names = ['"', "\\", "??/", "Käse\n", "", "%d", "*/", "a" * 300, "\0", "9"]
    program = short_program()
    library = compiled(export_c(program, (32, 32), class_names=names, origin="a run */ and $more"))
    found = (ctypes.c_char_p * 10).in_dll(library, "qsdt_class_names")
    assert [name.decode() for name in found] == [name.split("\0")[0] for name in names]


def test_numbers_are_written_to_the_bit():
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)[np.isfinite(bits.view(np.float32))]
    for value in [*values, np.float32(-0.0), np.float32(0), np.float32(3), np.float32(2**24), np.float32(-1)]:
        written = real(value).removesuffix("f")
        read = np.float32(float.fromhex(written) if "x" in written else float(written))
        assert read.tobytes() == value.tobytes()
    with pytest.raises(ValueError, match="inf is no number"):
        real(np.inf)
    assert (
        table("int8_t", "w", np.array([[-128, 127]])) == "static const int8_t w[2] = {\n    -128, 127,\n};\n"
    )
    assert (quoted('a"?1'), comment("a*/b/*ü")) == (r'"a\042\0771"', "a* /b/ *?")


def test_values_that_are_needed_at_once_share_no_memory():
    generator = np.random.default_rng(0)
    starts, lengths, sizes = (generator.integers(0, n, 40) for n in (30, 6, 50))
    lives = [Life(int(a), int(a + n), int(size)) for a, n, size in zip(starts, lengths, sizes, strict=True)]
    found, total = places(lives)
    spans = [range(place, place + life.elements) for place, life in zip(found, lives, strict=True)]
    assert total == max(span.stop for span in spans) < sum(sizes) / 2
    for (a, x), (b, y) in itertools.combinations(zip(lives, spans, strict=True), 2):
        assert not (a.first <= b.last and b.first <= a.last) or not set(x) & set(y)
    assert places([]) == ([], 0)


def test_what_is_no_classifier_is_refused_by_its_layer():
    program = short_program()
    last = program.steps[-1].name
    larger = (*program.steps, Resize(name="fpn/up", input=last, factor=2))
    with pytest.raises(
        UserError, match=r"fpn/up \(Resize\) has no C form, which is for networks that classify"
    ):
        export_c(program.replace(steps=larger, outputs=((LOGITS, "fpn/up"),)), (32, 32))
    with pytest.raises(UserError, match="the network gives logits of 2x2 pixels, but its C form"):
        export_c(program.replace(outputs=((LOGITS, "downsample4/conv"),)), (32, 32))
