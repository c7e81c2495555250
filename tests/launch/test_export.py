"""A workdir becomes a file to deploy, and that file predicts as the workdir does."""

import json
from pathlib import Path

import h5py
import jax.export
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from launch.predict import SHEET_NAME
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.deploy.agreement import Comparison
from qsdt_jax.deploy.bundle import read_bundle
from qsdt_jax.deploy.c.compiled import compiler
from qsdt_jax.errors import UserError
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.verification.forms import require_agreement
from tests.launch.tiny import draw_variables, launch, make_state, tiny_config, write_workdir

pytestmark = pytest.mark.slow

CONFIG = tiny_config(**{"data.eval_crop_ratio": 0.9})
COUNTS = 17_360  # Of an image, in all neurons.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    states = {
        step: make_state(CONFIG, draw_variables(CONFIG, step), draw_variables(CONFIG, 9)) for step in (1, 2)
    }
    return write_workdir(tmp_path_factory.mktemp("export"), CONFIG, states)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    folder, source = tmp_path_factory.mktemp("images"), DigitsSource("test")
    files = [folder / f"{i}.png" for i in range(3)]
    for i, file in enumerate(files):
        Image.fromarray(np.asarray(source[i]["image"])[..., 0]).resize((40, 36)).save(file)
    return files


def test_what_is_written_predicts_what_the_workdir_predicts(workdir, images, tmp_path, capsys):
    bundle, folder = tmp_path / "model.qsdt", tmp_path / "c"
    assert launch("export", "--workdir", workdir, "--out", bundle, "--c", folder, "--verify=3") == 0
    told, of_c, verified = capsys.readouterr().out.splitlines()
    assert told.startswith(f"{bundle}: 0.") and f"weights of {CONFIG.model.bits} bits" in told
    assert of_c.startswith(f"{folder}: qsdt_model.c and qsdt_model.h, C99: 0.0")
    header = (folder / "qsdt_model.h").read_text()
    assert "From step 2 of a run" in header and "qsdt_class_names[QSDT_CLASSES];" in header
    assert "#define QSDT_HEIGHT 32 " in header and "qsdt_forward(const uint8_t *image" in header
    forms, left_out = ", C form", ""
    if compiler() is None:
        forms, left_out = left_out, "; the C form not, for want of a C compiler"
    assert verified == (
        "verified on 3 images of the test split: training form, integer form, spike-driven form, "
        f"NumPy reader of {bundle}{forms} give the same {3 * COUNTS:,} spike counts and 30 logits, "
        f"bit for bit{left_out}"
    )

    assert launch("predict", "--workdir", workdir, *images) == 0
    expected = capsys.readouterr()
    assert launch("predict", "--bundle", bundle, *images) == 0
    found = capsys.readouterr()
    assert found.out == expected.out and found.out.count("\n") == len(images)
    assert found.err == f"sheet: {tmp_path / f'{SHEET_NAME}.png'}\n"
    assert Image.open(tmp_path / f"{SHEET_NAME}.png").format == "PNG"


def test_what_is_needed_to_feed_and_read_it_is_in_the_bundle(workdir, tmp_path):
    assert launch("export", "--workdir", workdir, "--out", tmp_path / "model.qsdt") == 0
    found = read_bundle(tmp_path / "model.qsdt")
    assert found.class_names == tuple("0123456789")
    assert (found.image_size, found.crop_ratio) == ((32, 32), 0.9)
    assert (found.mean, found.std) == (CONFIG.data.mean, CONFIG.data.std)
    assert found.architecture["channels"] == [8, 8, 16, 16] and found.origin["commit"]


def test_chosen_step_and_moving_average(workdir, tmp_path):
    def origin(*arguments):
        assert launch("export", "--workdir", workdir, "--out", tmp_path / "model.qsdt", *arguments) == 0
        return read_bundle(tmp_path / "model.qsdt")

    latest, first, ema = origin(), origin("--step", 1), origin("--ema")
    assert (latest.origin["step"], first.origin["step"], ema.origin["ema"]) == (2, 1, True)
    biases = [bundle.program.layers[-1].shift for bundle in (latest, first, ema)]
    drawn = [draw_variables(CONFIG, seed)["params"]["head"]["bias"] for seed in (2, 1, 9)]
    np.testing.assert_array_equal(biases, drawn)


def test_programs_and_bundle_at_once(workdir, tmp_path, capsys):
    program, model = tmp_path / "model.stablehlo", tmp_path / "model.onnx"
    pairs = tmp_path / "model.qdq.onnx"
    files = ["--out", tmp_path / "m.qsdt", "--stablehlo", program, "--onnx", model, "--qonnx", pairs]
    assert launch("export", "--workdir", workdir, *files) == 0
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert "m.qsdt" in first and "StableHLO for cpu, cuda, tpu, float32 images (B, 32, 32, 1)" in second
    assert third.startswith(f"{model}: 0.") and "ONNX, opset 21, float32 images (B, 32, 32, 1)" in third
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 1), dtype=np.float32)
    trained = load_trained(workdir)
    expected = trained.outputs({"image": images})
    logits = jax.export.deserialize(bytearray(program.read_bytes())).call(images)
    assert np.array_equal(logits, expected)
    assert fourth.startswith(f"{pairs}: 0.") and "ONNX with Q/DQ nodes, opset 13, float32 images" in fourth
    for file in (model, pairs):
        session = onnxruntime.InferenceSession(file)
        (found,) = session.run(["logits"], {"images": images})
        assert np.array_equal(found.argmax(1), np.asarray(expected).argmax(1))
        assert np.array_equal(found, expected) or file == pairs  # Whose numbers `test_qdq` compares.
        told = session.get_modelmeta().custom_metadata_map
        assert json.loads(told["classes"]) == list("0123456789")
        assert tuple(json.loads(told["mean"])) == CONFIG.data.mean
        assert tuple(json.loads(told["std"])) == CONFIG.data.std


def test_nir_graph_of_what_comes_before_attention(workdir, tmp_path, capsys):
    graph = tmp_path / "model.nir"
    assert launch("export", "--workdir", workdir, "--nir", graph, "--nir_until=downsample3/conv") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{graph}: 0.") and "MB: NIR, spikes in slots side by side, up to downs" in told
    with h5py.File(graph) as file:
        assert list(file["node/nodes/input/shape"][()]) == [1, 32, 32]
        assert list(file["node/nodes/output/shape"][()]) == [CONFIG.model.channels[2], 2, 2]
        assert tuple(json.loads(file["node/metadata/mean"][()])) == CONFIG.data.mean


def refused(capsys, *arguments) -> str:
    assert launch(*arguments) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.startswith("error: ") and found.err.count("\n") == 1
    return found.err


def test_mistakes_in_one_line(workdir, images, tmp_path, capsys):
    out, graph, image = tmp_path / "model.qsdt", tmp_path / "model.nir", images[0]
    for arguments, told in [
        (
            ["export", "--out", out],
            "needs --workdir DIR and a FILE for --out, --stablehlo, --onnx, --qonnx, --nir, or --c DIR",
        ),
        (["export", "--workdir", workdir], "export needs"),
        (["export", "--workdir", workdir, "--out", tmp_path / "no" / "m"], "--out"),
        (
            ["export", "--workdir", workdir, "--out", out, "--nir", graph],
            "block3_0/attn is attention",
        ),
        (
            ["export", "--workdir", workdir, "--out", out, "--nir", graph, "--nir_until=downsample3/con"],
            "the network has no step downsample3/con; did you mean 'downsample3/conv'?",
        ),
        (["export", "--workdir", workdir, "--out", out, "--nir_until=stage2"], "expected --nir FILE, whose"),
        (["export", "--workdir", workdir, "--out", out, "--onnx", out], "expected a file for each"),
        (["export", "--workdir", workdir, "--c", image], "is no folder; expected one, for qsdt_model.c and"),
        (["export", "--workdir", workdir, "--c", tmp_path / "no" / "c"], "cannot be written: No such file"),
        (["export", "--workdir", tmp_path / "none", "--out", out], "no such directory"),
        (["predict", image], "predict needs --workdir DIR or --bundle FILE"),
        (["predict", "--workdir", workdir, "--bundle", out, image], "got both"),
        (["predict", "--bundle", tmp_path / "none", image], "none cannot be read: No such file"),
        (["predict", "--bundle", image, image], "not a bundle of this format"),
    ]:
        assert told in refused(capsys, *arguments)
    assert not out.exists() and not graph.exists()


def test_attention_beyond_int32_is_refused(tmp_path, capsys):
    """With exact evaluation such a network is not even built; without it, it has no integer form."""
    config = tiny_config(**{"model.levels": 127, "data.image_size": (16 * 17, 16 * 17)})
    config.model.exact_evaluation = False
    workdir = write_workdir(tmp_path, config, {0: make_state(config, draw_variables(config, 1))})
    told = refused(capsys, "export", "--workdir", workdir, "--out", tmp_path / "model.qsdt")
    assert "(289 tokens x 4 channels of a head x D^3, D = 127), but int32 holds" in told


def test_forms_that_differ_are_named_with_the_first_neuron():
    found = {
        "integer form": Comparison(counts=2000, outputs={"logits": 30}),
        "spike-driven form": Comparison(
            2000, {"logits": 30}, {"head_neuron": 5, "conv": 1007}, {"logits": 30}
        ),
    }
    require_agreement({"integer form": found["integer form"]}, ())
    told = (
        "the spike-driven form differs from the training form in 1,012 of 2,000 spike counts, first in conv, "
        "and in 30 of 30 logits"
    )
    with pytest.raises(UserError, match=told):
        require_agreement(found, ("conv", "head_neuron"))


def test_float_network_is_refused(tmp_path, capsys):
    config = tiny_config(**{"model.bits": 32})
    workdir = write_workdir(tmp_path, config, {0: make_state(config, draw_variables(config, 1))})
    told = refused(capsys, "export", "--workdir", workdir, "--out", tmp_path / "model.qsdt")
    assert "float weights (bits=32), so there are no integers to export" in told
    assert not (tmp_path / "model.qsdt").exists()
