"""A segmentation by the command line: its files agree with it on padded images, and its energy is told."""

import csv
from pathlib import Path

import onnxruntime
import pytest

from qsdt_jax.assemble.tasks import build_task
from tests.configs.tiny_seg import get_config
from tests.deploy.nets import draw_variables
from tests.launch.tiny import launch, make_state, write_workdir

pytestmark = pytest.mark.slow

NAMES = ("0", "1", "2")


def write(folder: Path, **overrides) -> Path:
    """The workdir of a run with drawn variables."""
    config = get_config()
    config.ema_decay = 0.0
    config.model.levels = 1
    config.data.buckets = ((48, 48),)  # One program a form; every image is padded.
    config.data.classes = NAMES
    config.update_from_flattened_dict(overrides)
    folder.mkdir()
    variables = draw_variables(build_task(config, NAMES).model)
    return write_workdir(folder, config, {1: make_state(config, variables)})


def test_export_and_energy(tmp_path, capsys):
    workdir, bundle, graph = write(tmp_path / "run"), tmp_path / "model.qsdt", tmp_path / "model.onnx"
    words = ("--workdir", workdir, "--out", bundle, "--onnx", graph, "--verify=4")
    assert launch("export", *words) == 0, capsys.readouterr().err
    told = capsys.readouterr().out.splitlines()
    assert "weights of 4 bits" in told[0] and "logits, bit for bit" in told[-1]
    shape = onnxruntime.InferenceSession(graph).get_outputs()[0].shape
    assert shape[1:] == [16, 16, 3]

    assert launch("energy", "--workdir", workdir, "--images=4") == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    assert "4 images of the test split, mIoU" in table
    assert not (workdir / "energy" / "bubbles.png").exists()
    with (workdir / "energy" / "levels.csv").open() as stream:
        levels = [(row["part"], row["stride"]) for row in csv.DictReader(stream)]
    assert {("fpn", "2"), ("fpn", "16"), ("seg_head", "16"), ("seg_head", "2")} <= set(levels)
    words = ("--workdir", workdir, "--bundle", bundle, "--images=4", "--out", tmp_path / "again")
    assert launch("energy", *words) == 0, capsys.readouterr().err
    again = (tmp_path / "again" / "energy.csv").read_text()
    assert again == (workdir / "energy" / "energy.csv").read_text()

    capsys.readouterr()
    assert launch("predict", "--bundle", bundle, graph) == 2
    assert "tells classes of pixels; expected a network that classifies images" in capsys.readouterr().err


def test_float_neck_and_head_have_no_deployed_form(tmp_path, capsys):
    workdir = write(tmp_path / "run", **{"model.bits_rules": (("(fpn|seg_head)/.*", 32),)})
    assert launch("export", "--workdir", workdir, "--out", tmp_path / "model.qsdt") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("error: fpn/lateral0/conv, ")
    assert "more layers have float weights" in told
