"""What `verify` tells of a checkpoint: which network it is, what is wrong with it, and in which exit status."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from qsdt_jax.interop import to_torch
from tests.launch.tiny import draw_variables, launch, tiny_config, write_arrays

DATA = Path(__file__).parents[1] / "interop" / "data"
CONFIG = tiny_config()
HEADS = "--fields=num_heads=4"


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
    assert "a.pth: quantized spike-driven transformer, classifier, of a size without a name, 0.0354" in out
    assert "channels=(8, 8, 16, 16), depth=2" in out
    assert (
        "assumed (change it with --fields): bits=4, neuron=ie_lif, levels=4, timesteps=1, num_heads=4" in out
    )
    assert out.splitlines()[-1].startswith("verdict: ")


def test_what_is_missing_extra_or_of_another_shape_is_named(arrays, tmp_path, capsys):
    changed = {**arrays, "extra.weight": np.zeros((2, 3)), "block3.0.mlp.fc1_bn.bias": np.zeros(5)}
    del changed["block3.0.layer_scale1"]
    file, record = write_arrays(tmp_path / "a.pth", changed), tmp_path / "a.json"
    out = told(capsys, 1, file, HEADS, f"--json={record}")
    assert "tensors missing (1):\n  block3.0.layer_scale1 (16,)\n" in out
    assert "tensors unknown (1):\n  extra.weight (2, 3)\n" in out
    assert "tensors of another shape (1):\n  block3.0.mlp.fc1_bn.bias expected (64,) found (5,)\n" in out
    last = out.splitlines()[-1]
    assert last.startswith("verdict: ") and "1 tensors missing; 1 tensors unknown; 1 tensors of" in last
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
