"""What `verify` tells of a checkpoint: which network it is, what is wrong with it, and the exit status."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from qsdt_jax import load
from qsdt_jax.deploy.agreement import deployed_form, training_form
from qsdt_jax.deploy.mistakes import SlotsAlone
from qsdt_jax.errors import UserError
from qsdt_jax.interop import to_torch
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.loading.deployed import bundle_of_network
from qsdt_jax.models import QSDTransformer, SpikingResformer
from qsdt_jax.models.sdtv2 import SDTV2
from qsdt_jax.models.shapes import variable_shapes
from qsdt_jax.verification import comparison
from qsdt_jax.verification.comparison import compare_forms, compare_theirs
from qsdt_jax.verification.seen import masked
from qsdt_jax.verification.theirs import read_theirs
from tests.deploy import nets
from tests.launch.tiny import (
    draw,
    draw_variables,
    launch,
    make_state,
    tiny_config,
    write_arrays,
    write_workdir,
)

DATA = Path(__file__).parents[1] / "interop" / "data"
CONFIG = tiny_config()
HEADS = "--fields=num_heads=4"
FLOAT_NECK = (BitsRule(pattern="(fpn|seg_head)/.*", bits=32),)  # As published.
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return to_torch(draw_variables(CONFIG, 0))


def told(capsys, status: int, *words: object) -> str:
    assert launch("verify", *words) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *words: object) -> str:
    assert launch("verify", *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err


# Which network it is, and what does not fit.


@pytest.mark.parametrize("prefix", ["module._orig_mod.", "model.", "backbone."])
def test_a_network_is_known_by_its_tensors(arrays, tmp_path, capsys, prefix):
    named = {prefix + name: array for name, array in arrays.items()}
    out = told(capsys, 0, write_arrays(tmp_path / "a.pth", named, "state_dict"), HEADS, "--drawn=0")
    assert "a.pth: quantized spike-driven transformer, classifier, of a size without a name, 0.03538 M" in out
    assert "channels=(8, 8, 16, 16), depth=2" in out
    assert (
        "assumed (change it with --fields): bits=4, neuron=ie_lif, levels=4, timesteps=1, num_heads=4" in out
    )
    assert out.splitlines()[-1].endswith("classifier: all tensors are there")


@slow
def test_a_segmenter_is_known(tmp_path, capsys):
    arrays = to_torch(nets.draw_variables(nets.tiny_segmenter(bits_rules=FLOAT_NECK)))
    file = write_arrays(tmp_path / "seg.pth", arrays, "state_dict")
    out = told(capsys, 0, file, "--fields=num_heads=2", "--drawn=0")
    assert "seg.pth: quantized spike-driven transformer, segmenter, of a size without a name" in out
    assert "fpn_channels=6" in out and "5 classes" in out


def test_what_is_missing_extra_or_of_another_shape_is_named(arrays, tmp_path, capsys):
    changed = {**arrays, "extra.weight": np.zeros((2, 3)), "block3.0.mlp.fc1_bn.bias": np.zeros(5)}
    del changed["block3.0.layer_scale1"]
    file, record = write_arrays(tmp_path / "a.pth", changed), tmp_path / "a.json"
    out = told(capsys, 1, file, HEADS, f"--json={record}")
    assert "tensors missing (1):\n  block3.0.layer_scale1 (16,)\n" in out
    assert "tensors unknown (1):\n  extra.weight (2, 3)\n" in out
    assert "tensors of another shape (1):\n  block3.0.mlp.fc1_bn.bias expected (64,) found (5,)\n" in out
    last = out.splitlines()[-1]
    assert (
        last.startswith("verdict: ")
        and "1 tensor missing; 1 tensor unknown; 1 tensor of another shape" in last
    )
    found = json.loads(record.read_text())
    assert found["misfits"]["reshaped"] == {"block3.0.mlp.fc1_bn.bias": [[64], [5]]}
    assert found["holds"] is False and f"verdict: {found['verdict']}" == last


# Bad input


def resnet(folder: Path) -> Path:
    names = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight")
    return write_arrays(folder / "resnet.pth", {name: np.zeros((4, 4)) for name in names})


def cut_off(folder: Path) -> Path:
    whole, file = resnet(folder).read_bytes(), folder / "cut.pth"
    file.write_bytes(whole[: len(whole) // 2])
    return file


def other_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "")
    return folder / "other.pth"


def text(content: str, name: str = "a.pth"):
    def written(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return written


def a_folder(folder: Path) -> Path:
    text("x", "notes.txt")(folder)
    return folder


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (resnet, "it has 4 tensors (conv1.weight, bn1.weight, layer1.0.conv1.weight, ...), as of another"),
        (lambda _: DATA / "evil.pth", "names the code posix.system, which is not run"),
        (lambda _: DATA / "whole_module.pth", "save the weights alone"),
        (cut_off, "damaged or cut off (File is not a zip file); fetch the file again"),
        (other_zip, "a zip archive with 0 entries data.pkl, expected one"),
        (text(""), "it has 0 bytes; fetch the file again"),
        (text("<!doctype html>"), "an HTML page; expected a zip archive"),
        (text("some words"), "begins with b'some wor'; expected a zip archive"),
        (text("some words", "a.txt"), "is neither a bundle (.qsdt) nor a PyTorch checkpoint (.pth)"),
        (a_folder, "holds no network: expected config.json with checkpoints (a run)"),
        (lambda folder: folder / "none.pth", "no such file"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, made, message):
    assert message in refused(capsys, made(tmp_path))


def test_mistakes_of_the_command_line(arrays, tmp_path, capsys):
    file = write_arrays(tmp_path / "a.pth", arrays)
    assert "verify needs a checkpoint" in refused(capsys)
    assert "--fields levels: expected KEY=VALUE" in refused(capsys, file, "--fields=levels")
    assert "no field 'level'; did you mean 'levels'" in refused(capsys, file, "--fields=level=3")
    assert "has no choice of step" in refused(capsys, file, "--step=3")


# What its numbers show


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    state = make_state(CONFIG, draw_variables(CONFIG, 1), None)
    return write_workdir(tmp_path_factory.mktemp("run"), CONFIG, {1: state})


@pytest.fixture(scope="module")
def right(workdir):
    """The network of the workdir and its bundle; images, and what it and one with a mistake give for them."""
    network, images = load(workdir), nets.draw_images(2, 32, 32, 1)
    bundle = bundle_of_network(network)
    wrong = deployed_form(bundle.require_program("logits"), SlotsAlone(4))
    same = training_form(network.model, network.variables)
    return network, bundle, images, same(images), wrong(images)


@slow
def test_forms_rates_and_energy_of_a_workdir(workdir, tmp_path, capsys):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    record, bundle = tmp_path / "a.json", tmp_path / "a.qsdt"
    out = told(capsys, 0, workdir, tmp_path, f"--json={record}", f"--out={bundle}")
    assert "images: 1 of 32x32 pixels, given" in out and "told by its configuration: channels" in out
    assert f"spike-driven form, NumPy reader of {bundle} give the same" in out and "bit for bit" in out
    assert re.search(r"^  head_neuron +\d+\.\d\d %$", out, re.M)
    assert re.search(r"^with memory  ", out, re.M)
    last = out.splitlines()[-1]
    assert last.endswith("its form of binary spikes (D = 4, T = 1) is its training form")
    found = json.loads(record.read_text())
    assert found["holds"] is True and 0 < found["firing_rates"]["head_neuron"] < 1
    assert 0 < found["neurobench"]["activation_sparsity"] < 1
    assert found["energy_pj"]["paper"]["spiking"] > 0 and bundle.stat().st_size == found["bundle"]["bytes"]


@slow
def test_forms_that_differ_give_the_layer_and_the_reason(right, monkeypatch):
    network, bundle, images, *_ = right

    def wrong_forms(model, variables, bundle, file):
        wrong = deployed_form(bundle.program, SlotsAlone(4))
        return {"training form": training_form(model, variables), "spike-driven form": wrong}

    monkeypatch.setattr(comparison, "forms_of", wrong_forms)
    found = compare_forms(network, bundle, [masked({"image": images})], None)
    assert not isinstance(found, str)
    assert "the spike-driven form differs from the training form in" in found.told
    assert "first in block3_0/attn/attn_neuron" in found.told
    assert found.cause and found.cause.mistake == "attention is run slot by slot" and not found.cause.left


def as_torch(counts):
    """Channels before pixels, and names with dots."""
    return {name.replace("/", "."): np.moveaxis(np.asarray(c), -1, 1) for name, c in counts.items()}


def written(file: Path, images, found, counts=True) -> str:
    outputs, spikes = found
    arrays: dict[str, Any] = {**outputs, **(as_torch(spikes) if counts else {})}
    np.savez(file, images=np.moveaxis(images, -1, 1), **arrays)
    return f"--theirs={file}"


@slow
def test_numbers_of_another_program(workdir, right, tmp_path, capsys):
    network, bundle, images, same, wrong = right
    program = bundle.require_program("logits")
    written(tmp_path / "same.npz", images, same)
    found = compare_theirs(network, program, read_theirs(tmp_path / "same.npz"))
    assert isinstance(found, str)
    assert re.fullmatch(r".*same.npz gives the same [\d,]+ spike counts and 20 logits, bit for bit", found)
    out = told(capsys, 1, workdir, written(tmp_path / "wrong.npz", images, wrong))
    assert "block3_0/attn/attn_neuron is the first whose counts differ" in out
    assert "theirs: likely reason: attention is run slot by slot, which gives exactly" in out
    assert "wrong.npz is not it, probably because attention is run slot by slot" in out.splitlines()[-1]


@slow
def test_logits_of_another_program_are_enough(right, tmp_path):
    network, bundle, images, _, wrong = right
    written(tmp_path / "wrong.npz", images, wrong, counts=False)
    found = compare_theirs(network, bundle.program, read_theirs(tmp_path / "wrong.npz"))
    assert not isinstance(found, str)
    assert found.cause and found.cause.mistake == "attention is run slot by slot"
    assert found.cause.first == "block3_0/attn/attn_neuron"
    assert "exactly these numbers; the first layer that it changes is block3_0" in found.lines[1]


@slow
def test_numbers_that_are_none_of_this_network(workdir, right, tmp_path, capsys):
    network, bundle, images, (outputs, counts), _ = right
    file, good = tmp_path / "a.npz", {"images": images, **outputs}
    head = np.asarray(counts["head_neuron"])
    for arrays, message in [
        ({"logits": np.zeros((2, 10))}, "expected arrays 'images' and 'logits', found logits"),
        ({**good, "logits": np.zeros((2, 9))}, "'logits' are (2, 9); expected (2, 10)"),
        ({**good, "images": images[..., 0]}, "'images' are (2, 32, 32); expected (B, H, W, 1)"),
        ({**good, "images": np.zeros((2, 32, 32, 1), int)}, "'images' are int64; expected uint8, or floats"),
        ({**good, "head_neurn": head}, "no neuron is called 'head_neurn'; did you mean 'head_neuron'?"),
        ({**good, "head_neuron": head / 4}, "; expected counts of spikes, 0, 1, ..."),
        ({**good, "head_neuron": head[:1]}, "'head_neuron' is (1, 16); expected (2, 1, 1, 16)"),
    ]:
        np.savez(file, **arrays)
        with pytest.raises(UserError, match=re.escape(message)):
            compare_theirs(network, bundle.program, read_theirs(file))
    file.write_bytes(b"no arrays")
    assert "no arrays of numpy.savez" in refused(capsys, workdir, f"--theirs={file}")
    assert "no such file" in refused(capsys, workdir, f"--theirs={tmp_path / 'none.npz'}")
    assert "has its images; found b.png besides" in refused(capsys, workdir, "b.png", f"--theirs={file}")


@slow
def test_a_network_of_float_weights_has_its_training_form(tmp_path, capsys):
    """Of SDT-V2 the reason is looked for among what its file does not tell."""
    fields = {**nets.TINY, **SDTV2, "mlp_ratio": 4, "timesteps": 2}
    model, images = QSDTransformer(**fields), nets.draw_images(2, 32, 32, 3)
    variables = nets.draw_variables(model)
    file = write_arrays(tmp_path / "sdt.pth", to_torch(variables))
    other = model.clone(backbone=model.backbone.clone(decay_input=False))
    wrong = written(tmp_path / "wrong.npz", images, training_form(other, variables)(images), counts=False)
    out = told(capsys, 1, file, "--fields=num_heads=4,timesteps=2", wrong)
    assert "sdt.pth: Spike-driven Transformer V2, classifier" in out
    assert "not checked: its form of binary spikes: the network has float weights" in out
    assert "likely reason: it is run with decay_input=False, which gives exactly these numbers" in out
    assert re.search(r"^  head_neuron +\d+\.\d\d %$", out, re.M)


@slow
def test_a_spiking_resformer_is_run_as_it_is_trained(tmp_path, capsys):
    sizes: dict[str, Any] = {"channels": (8, 16, 16), "num_heads": (1, 2, 2), "group_size": 8}
    model = SpikingResformer(**sizes, small_images=True, num_classes=3)
    variables = draw(variable_shapes(model), 0)
    for rate in ("rate_x", "rate_attn"):
        variables = with_rates(variables, rate)
    file, images = write_arrays(tmp_path / "srf.pth", to_torch(variables)), nets.draw_images(2, 32, 32, 3)
    other = training_form(model.clone(timesteps=2), variables)(images)
    out = told(capsys, 1, file, written(tmp_path / "wrong.npz", images, other, counts=False))
    assert "srf.pth: SpikingResformer, of a size without a name" in out and "--fields): timesteps=4" in out
    assert "not checked: its form of binary spikes: " in out and re.search("^with memory  ", out, re.M)
    assert "likely reason: it is run with timesteps=2, which gives exactly these numbers" in out


def with_rates(variables, name: str):
    """Firing rates as of a trained network."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full_like(leaf, 0.3) if path[-1].key == name else leaf, variables
    )
