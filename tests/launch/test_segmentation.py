"""A segmentation by the command line: killed, resumed, evaluated on one device and on several, studied.

What is killed and resumed has a light backbone.
"""

import csv
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import qsdt_jax
from qsdt_jax.answers.maps import MAPS
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.models import Segmenter
from qsdt_jax.tasks.task import variable_shapes
from qsdt_jax.workdir.metrics import read_metrics
from tests.configs.tiny_seg import get_config
from tests.launch.tiny import draw, launch, write_pth
from tests.launch.two_devices import on_two_devices
from tests.train.runs import Signal, outcome, run
from tests.train.test_resume import KILL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "configs" / "tiny_seg.py"
LIGHT = TINY.with_name("light_seg.py")
METRICS = ("miou", "macc", "aacc")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, cache) -> Path:
    """Of a run that was killed twice."""
    path = tmp_path_factory.mktemp("killed") / "run"
    for signal in (Signal(KILL, "logged", 5), Signal(KILL, "evaluating", 2)):
        assert run(path, cache, signal=signal, config=LIGHT).status == -KILL
    ended = run(path, cache, config=LIGHT)
    assert ended.status == 0, ended
    return path


def test_a_killed_run_ends_as_an_uninterrupted_one(workdir, tmp_path, cache):
    ended = run(tmp_path / "run", cache, config=LIGHT)
    assert ended.status == 0, ended
    found = outcome(tmp_path / "run")
    assert found["step"] == 12 and found == outcome(workdir)


def test_eval_gives_what_training_logged(workdir, tmp_path, capsys):
    files = {"json": tmp_path / "scores.json", "csv": tmp_path / "classes.csv"}
    assert launch("eval", f"--workdir={workdir}", *(f"--{k}={v}" for k, v in files.items())) == 0
    printed = capsys.readouterr().out
    logged = read_metrics(workdir)[-1]
    scores = json.loads(files["json"].read_text())
    assert {name: scores[name] for name in METRICS} == {name: logged[f"eval/{name}"] for name in METRICS}
    with files["csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == ["0", "1", "2"]
    assert np.mean([float(row["IoU (%)"]) for row in rows]) == pytest.approx(scores["miou"], rel=1e-12)
    assert all(row["class"] in printed and f"{float(row['IoU (%)']):.2f}" in printed for row in rows)


def test_a_published_segmentor_is_imported_and_opened(tmp_path, capsys):
    """A file under the published names becomes a workdir, and is opened as it is."""
    config = get_config()
    config.model.bits_rules = (("(fpn|seg_head)/.*", 32),)
    task = build_task(config, ("0", "1", "2"))
    variables = draw(variable_shapes(task), 3)
    pth = write_pth(tmp_path / "published.pth", variables)
    with zipfile.ZipFile(pth) as archive:
        assert b"decode_head.conv_seg.weight" in archive.read("made/data.pkl")
    words = ("--config", TINY, "--config.model.bits_rules=(('(fpn|seg_head)/.*', 32),)")
    assert launch("import-torch", *words, "--checkpoint", pth, "--workdir", tmp_path / "run") == 0
    assert "step 0 with" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, load_trained(tmp_path / "run").variables, variables)

    network = qsdt_jax.load(pth, num_heads=2)
    model = network.model
    assert isinstance(model, Segmenter) and (model.num_classes, model.fpn_channels) == (3, 8)
    assert (model.neuron_input_gain, model.backbone.mlp_ratio, model.backbone.attention_tokens) == (
        0.25,
        1,
        0,
    )
    jax.tree.map(np.testing.assert_array_equal, network.variables, variables)
    assert network.preprocess.buckets is not None and network.preprocess.buckets.short_side == 512
    assert network.answering == MAPS
    assert qsdt_jax.load(pth, num_heads=2, neuron_input_gain=1.0).model.neuron_input_gain == 1


def test_eval_on_two_devices(workdir, tmp_path):
    """The same counts, though batches hold other images."""
    file = tmp_path / "scores.json"
    on_two_devices(tmp_path / "output", ("eval", f"--workdir={workdir}", f"--json={file}"))
    scores, logged = json.loads(file.read_text()), read_metrics(workdir)[-1]
    assert {name: scores[name] for name in METRICS} == {name: logged[f"eval/{name}"] for name in METRICS}
