"""Evaluation of a workdir, against what the training loop logs."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from launch.evaluate import evaluate, write_table
from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.images import normalize
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.errors import UserError
from qsdt_jax.loading.trained import load_trained, stored_config
from qsdt_jax.train.loop import train
from qsdt_jax.workdir.checkpoint import Checkpointer
from qsdt_jax.workdir.metrics import read_metrics
from tests.disks import file_size_limit
from tests.launch.tiny import draw_variables, launch, make_state, tiny_config, write_workdir

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = tiny_config()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """Of a run at its end: without a step the loop evaluates it, EMA too, and logs that."""
    run = build_run(CONFIG)
    last = make_state(CONFIG, draw_variables(CONFIG, 1), ema=draw_variables(CONFIG, 2))
    states = {run.total_steps - 1: last.replace(variables=last.ema), run.total_steps: last}
    path = write_workdir(tmp_path_factory.mktemp("run"), CONFIG, states)
    train(run, path)
    return path


@pytest.fixture(scope="module")
def logged(workdir) -> dict[str, float]:
    return read_metrics(workdir)[-1]


@pytest.fixture(scope="module")
def trained(workdir):
    return load_trained(workdir)


def test_a_disk_that_fills_up_is_told(tmp_path):
    """While a table is written; of what was there before nothing is lost."""
    file = tmp_path / "classes.csv"
    table = {"class": ["a"] * 100, "IoU (%)": [np.float64(1 / 3)] * 99 + [np.float64("nan")]}
    write_table(str(file), table)
    before = file.read_bytes()
    assert before.startswith(b"class,IoU (%)\r\na,0.333") and before.endswith(b"a,\r\n")
    with file_size_limit(100), pytest.raises(UserError, match=r"classes\.csv cannot be written: File too"):
        write_table(str(file), table)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
    with pytest.raises(UserError, match=r"^/dev/full cannot be written: No space left"):
        write_table("/dev/full", table)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def copied(workdir: Path, to: Path) -> Path:
    return Path(shutil.copytree(workdir, to / "copy"))


def test_equals_what_training_logged(workdir, logged, trained, capsys, tmp_path):
    file = tmp_path / "metrics.json"
    assert launch("eval", "--workdir", workdir, "--json", file) == 0
    found = json.loads(file.read_text())
    expected = {name.removeprefix("eval/"): v for name, v in logged.items() if name.startswith("eval/")}
    assert expected.keys() == {"top1", "top5", "loss"}
    about = {"workdir": str(workdir), "step": trained.step, "split": "test", "ema": False}
    assert found == {**about, **expected}
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert lines == {name: f"{value:.6g}" for name, value in expected.items()}


def test_train_split_and_moving_average(workdir, logged):
    """Against scores that no batch, padding or mask has part in."""
    averaged = load_trained(workdir, ema=True)
    source = DigitsSource("train")
    preprocess = build_preprocess(CONFIG)
    examples = [preprocess.evaluate(source[i]) for i in range(len(source))]
    images = np.stack([normalize(e["image"], preprocess.mean, preprocess.std) for e in examples])
    labels = np.array([example["label"] for example in examples])
    forward = jax.jit(averaged.task.model.apply)
    logits = np.concatenate([forward(averaged.variables, part) for part in np.split(images, 3)])
    top1 = np.mean(np.argmax(logits, axis=1) == labels)
    np.testing.assert_allclose(evaluate(averaged, "train")["top1"], 100 * top1, rtol=1e-12)
    found = evaluate(averaged, "test")
    assert found == {name: logged[f"eval_ema/{name}"] for name in found}
    assert logged["eval_ema/top1"] != logged["eval/top1"]


def test_latest_best_and_moving_average(workdir, trained, tmp_path):
    copy = copied(workdir, tmp_path)
    first, last = sorted(int(folder.name) for folder in (copy / "checkpoints").iterdir())
    assert trained.step == last
    assert_same(trained.variables, draw_variables(CONFIG, 1))
    with Checkpointer(copy / "checkpoints") as checkpointer:  # Better than what the loop measured.
        checkpointer.add_metrics(first, {"eval/top1": 99.0})
    best = load_trained(copy, step="best", ema=True)
    assert best.step == first
    assert_same(best.variables, draw_variables(CONFIG, 2))


def test_config_comes_back_with_its_types(workdir):
    config = stored_config(workdir)
    assert config.to_dict() == CONFIG.to_dict()
    assert isinstance(config.model.channels, tuple)
    with pytest.raises(AttributeError):
        config.model.bitz = 2


def test_keys_newer_than_the_workdir_have_their_defaults(workdir, tmp_path):
    stored = CONFIG.to_dict()
    del stored["model"]["reset"], stored["loss"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert stored_config(tmp_path).to_dict() == {**CONFIG.to_dict(), "loss": base_config().loss.to_dict()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": {"bitz": 2}}, "bitz"),
        ({"model": {"bits": "four"}}, "bits"),
        ({"model": 4}, "config.json is not of this version"),
    ],
)
def test_config_that_is_not_of_this_version(tmp_path, change, told):
    (tmp_path / "config.json").write_text(json.dumps(change))
    with pytest.raises(UserError, match=told) as caught:
        stored_config(tmp_path)
    assert len(str(caught.value)) < 300


def test_checkpoint_that_does_not_fit_its_config(workdir, tmp_path):
    copy = copied(workdir, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    config["model"]["mlp_ratio"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"batch_stats/block3_0/mlp/bn1/mean expected float32\[32\] found .*64"
    ):
        load_trained(copy)


def test_class_names_that_do_not_fit(workdir, tmp_path):
    copy = copied(workdir, tmp_path)
    for data, told in (
        ('{"class_names": ["a", "b"], "training_images": 5}', "expected 10 class names, .*found 2"),
        ('{"class_names": "ab", "training_images": 5}', "expected a list of class names"),
        ("[]", "cannot be read"),
    ):
        (copy / "data.json").write_text(data)
        with pytest.raises(UserError, match=rf"data\.json:? {told}"):
            load_trained(copy)


def test_data_of_other_classes(trained):
    config = trained.config.copy_and_resolve_references()
    config.data.source, config.data.fake_classes = "fake", 7
    with pytest.raises(UserError, match=r"the train split has 7 classes, but the network in .* has 10"):
        evaluate(dataclasses.replace(trained, config=config), "train")


def test_damaged_checkpoint(workdir, tmp_path, capsys):
    copy = copied(workdir, tmp_path)
    last = max(int(folder.name) for folder in (copy / "checkpoints").iterdir())
    for file in (copy / "checkpoints" / str(last)).rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert launch("eval", "--workdir", copy, "--step", last) == 2
    assert f"error: the checkpoint of step {last} in" in capsys.readouterr().err
    assert load_trained(copy).step == last - 1


def test_mistakes_in_one_line(workdir, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    unsaved = tmp_path / "unsaved"
    unsaved.mkdir()
    shutil.copy(workdir / "config.json", unsaved)
    for arguments, told in [
        ([], "eval needs --workdir"),
        (["--workdir", tmp_path / "none"], "none: no such directory"),
        (["--workdir", empty], "is not the workdir of a run"),
        (["--workdir", unsaved], "holds no checkpoint"),
        (["--workdir", unsaved, "--step", "best"], "has no best step"),
        (["--workdir", workdir, "--step", "7"], "holds no checkpoint of step 7; it holds steps"),
        (["--workdir", workdir, "--step", "x"], "step 'x' is none of latest, best, or a number"),
        (["--workdir", workdir, "--split", "val"], "value should be one of <test|train>"),
        (["--workdir", workdir, "--json", tmp_path / "no" / "x.json"], "x.json cannot be written"),
        (["--workdir", workdir, "--jso", "x"], "unknown flag --jso; did you mean 'json'?"),
    ]:
        assert launch("eval", *arguments) == 2, arguments
        found = capsys.readouterr()
        assert found.out == ""
        assert found.err.startswith("error: ") and found.err.count("\n") == 1, found.err
        assert told in found.err


def test_a_table_of_classes_where_the_task_has_none(workdir, tmp_path, capsys, monkeypatch):
    """Told before anything is scored, and no file is left."""
    monkeypatch.setattr("launch.evaluate.score", lambda *_: pytest.fail("scored"))
    assert launch("eval", "--workdir", workdir, "--csv", tmp_path / "classes.csv") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --csv ") and told.count("\n") == 1
    assert "config.task.name='classification' says nothing of single classes" in told
    assert not (tmp_path / "classes.csv").exists()


def test_a_run_without_moving_average(tmp_path, capsys):
    config = tiny_config(ema_decay=0.0)
    write_workdir(tmp_path, config, {3: make_state(config, draw_variables(config, 0))})
    assert launch("eval", "--workdir", tmp_path, "--ema") == 2
    told = f"error: workdir {tmp_path} keeps no moving average: config.ema_decay=0.0\n"
    assert capsys.readouterr().err == told


def test_a_real_process(tmp_path):
    command = [sys.executable, "-m", "launch", "eval", f"--workdir={tmp_path}", "extra"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "error: unexpected argument 'extra'; flags look like --name=value\n"


def test_help_answers_without_the_libraries():
    command = (
        "import sys; from launch.__main__ import main; main(['eval', '--help']); print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "--split  <test|train>: split of the data (default: test)" in done.stdout
    assert done.stdout.endswith("False\n")
