"""A segmentation by the command line: its files agree with it on padded images, and its energy is told."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.deploy.bundle import read_bundle, write_bundle
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

    assert launch("export", "--workdir", workdir, "--c", tmp_path / "c") == 2
    told = capsys.readouterr().err
    assert "has no C form, which is for networks that classify images" in told and told.count("\n") == 1

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

    picture = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(picture)
    told = []
    for words in (("--workdir", workdir), ("--bundle", bundle)):
        capsys.readouterr()
        folder = tmp_path / words[0]
        words = (*words, "--out", folder, "--sheet", f"{folder}.png", picture)
        assert launch("predict", *words) == 0, capsys.readouterr().err
        told.append((capsys.readouterr().out, (folder / "a.png").read_bytes()))
    assert told[0] == told[1] and "%" in told[0][0]

    older = dataclasses.replace(read_bundle(bundle), buckets=None)
    write_bundle(tmp_path / "older.qsdt", older)
    assert launch("predict", "--bundle", tmp_path / "older.qsdt", picture) == 2
    assert "not how large images are shown, as bundles of before" in capsys.readouterr().err
    assert not (tmp_path / "predictions").exists()


def test_float_neck_and_head_are_deployed(tmp_path, capsys):
    """As the recipe of ADE20K has them."""
    workdir = write(tmp_path / "run", **{"model.bits_rules": (("(fpn|seg_head)/.*", 32),)})
    assert launch("export", "--workdir", workdir, "--out", tmp_path / "model.qsdt", "--verify=2") == 0
    told = capsys.readouterr().out
    assert "weights of 4/32 bits" in told and "logits, bit for bit" in told
    assert launch("energy", "--workdir", workdir, "--images=2") == 0
    assert "4/32-bit weights" in capsys.readouterr().out
    with (workdir / "energy" / "energy.csv").open() as stream:
        rows = {row["layer"]: row for row in csv.DictReader(stream)}
    row = rows["seg_head/classifier"]
    assert (row["bits"], rows["block3_0/mlp/fc1"]["bits"]) == ("32", "4")
    assert float(row["bit-aware spiking pJ"]) == pytest.approx(0.9 * float(row["additions"]), rel=1e-4)
    assert launch("predict", "--bundle", tmp_path / "model.qsdt", tmp_path / "none.png") == 2
