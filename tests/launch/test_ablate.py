"""Studies: what is refused before training, what is skipped, what a failure costs."""

import csv
import importlib
import json
from pathlib import Path

import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.experiment.study import read_study
from qsdt_jax.processes.preemption import Preempted
from tests.launch.tiny import DIGITS, launch, write_data

pytestmark = pytest.mark.slow

HEADER = """
from configs.digits import get_config as digits
SEEDS = 2
def get_config():
    config = digits()
    config.model.channels = (8, 8, 16, 16)
    return config
"""
ROWS = """
ROWS = (
    ("float, KD", {"model.bits": 32, "distill.teacher": "row:twin", "distill.kd": 1.0}),
    ("binary", {"model.neuron": "lif", "model.levels": 1}),
    ("twin", {"model.neuron": "relu"}),
)
"""


@pytest.fixture
def study(tmp_path):
    """Runs a study of some rows and returns the exit status and its workdir."""

    def run(rows: str, *arguments: str) -> tuple[int, Path]:
        file = tmp_path / "study.py"
        file.write_text(HEADER + rows)
        workdir = tmp_path / "work"
        return launch("ablate", f"--config={file}", f"--workdir={workdir}", *arguments), workdir

    return run


@pytest.fixture
def trained(monkeypatch):
    """Stands for training: notes each configuration, and writes what a run leaves, or raises."""
    runs, answers = [], {}

    def train(run, folder):
        name = f"{folder.parent.name}/{folder.name}"
        runs.append(name)
        answer = answers.get(name, 50.0 + len(runs))
        if isinstance(answer, BaseException):
            raise answer
        (folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(run.to_dict()))
        write_data(folder, DIGITS)
        summary = {
            "final": {"eval/top1": answer},
            "images_per_second": 9.5,
            "parameters": 7,
            "commit": "abc",
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    monkeypatch.setattr("launch.ablate.make_run", lambda config, workdir: config)
    monkeypatch.setattr("launch.ablate.check", lambda study, variant: None)
    monkeypatch.setattr("launch.ablate.train", train)
    return runs, answers


def results(workdir: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (workdir / "results.csv").open() as stream:
        return {(line["row"], line["seed"]): line for line in csv.DictReader(stream)}


def test_rows_times_seeds_with_the_teacher_first(study, trained, capsys):
    status, workdir = study(ROWS)
    assert status == 0
    names = ["twin", "float_kd", "binary"]
    assert trained[0] == [f"{name}/seed{seed}" for name in names for seed in (0, 1)]
    stored = json.loads((workdir / "runs/float_kd/seed1/config.json").read_text())
    assert stored["distill"]["teacher"] == str(workdir / "runs/twin/seed1")
    assert (stored["seed"], stored["model"]["bits"]) == (1, 32)
    found = results(workdir)
    assert (
        len(found) == 6 and found["binary", "0"]["top1"] == "55.0" and found["twin", "1"]["commit"] == "abc"
    )
    table = (workdir / "results.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == ["| float, KD", "| binary", "| twin"]
    assert (workdir / "results.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_done_is_skipped_and_a_new_row_is_run(study, trained):
    study(ROWS)
    trained[0].clear()
    assert study(ROWS)[0] == 0 and trained[0] == []
    more = ROWS.replace('    ("twin"', '    ("8 bits", {"model.bits": 8}),\n    ("twin"')
    assert study(more)[0] == 0 and trained[0] == ["8_bits/seed0", "8_bits/seed1"]


def test_only_some_rows_with_what_they_need(study, trained, capsys):
    assert study(ROWS, "--only=binary")[0] == 0 and trained[0] == ["binary/seed0", "binary/seed1"]
    assert study(ROWS, "--only=twin", "--only=float, KD")[0] == 0 and trained[0][2:] == [
        f"{row}/seed{seed}" for row in ("twin", "float_kd") for seed in range(2)
    ]
    assert study(ROWS, "--only=bniary")[0] == 2
    assert capsys.readouterr().err.endswith("error: --only: no row 'bniary'; did you mean 'binary'?\n")


@pytest.mark.parametrize("flag", ["parallel", "seeds"])
def test_at_least_one_process_and_one_seed(study, trained, capsys, flag):
    assert study(ROWS, f"--{flag}=0")[0] == 2 and trained[0] == []
    assert capsys.readouterr().err == f"error: --{flag}=0 must be at least 1\n"


def test_other_numbers_of_seeds(study, trained):
    study(ROWS, "--seeds=1")
    assert trained[0] == ["twin/seed0", "float_kd/seed0", "binary/seed0"]
    _, workdir = study(ROWS, "--seeds=3", "--only=twin")
    assert trained[0][3:] == ["twin/seed1", "twin/seed2"]
    assert {seed for _, seed in results(workdir)} == {"0", "1", "2"}


@pytest.mark.parametrize("data", ["digits", "imagenet"])
@pytest.mark.parametrize("name", ["components", "weight_bits", "levels_timesteps", "modules", "surrogates"])
def test_ready_studies(name, data, tmp_path):
    """Their rows name keys and rows that there are, on both data, and every override changes something."""
    module = importlib.import_module(f"configs.ablations.{name}")
    study = read_study(f"configs/ablations/{name}.py", module, module.get_config(data).lock(), tmp_path)
    assert study.seeds >= 3 and len(study.variants) >= 9
    configs = [json.dumps(study.config(row, 0).to_dict()) for row in study.variants.values()]
    assert len(set(configs)) == len(configs)


def test_a_failure_is_written_down_and_tried_again(study, trained, capsys):
    trained[1]["twin/seed0"] = UserError("the loss is nan at step 3")
    trained[1]["binary/seed1"] = ZeroDivisionError("a bug")
    status, workdir = study(ROWS)
    assert status == 0 and len(trained[0]) == 6
    found = results(workdir)
    assert found["twin", "0"]["failure"] == "the loss is nan at step 3" and found["twin", "0"]["top1"] == ""
    assert found["binary", "1"]["failure"] == "ZeroDivisionError: a bug"
    assert "| 1 (1 failed) |" in (workdir / "results.md").read_text()
    assert "error: twin, seed 0: the loss is nan" in capsys.readouterr().err
    trained[0].clear(), trained[1].clear()
    study(ROWS)
    assert (
        trained[0] == ["twin/seed0", "binary/seed1"] and "failed" not in (workdir / "results.md").read_text()
    )


def test_a_signal_stops_the_study(study, trained):
    trained[1]["float_kd/seed0"] = Preempted("stopped")
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr("os._exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
        study(ROWS)
    assert trained[0][-1] == "float_kd/seed0"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("ROWS = ()", "is no study: it needs ROWS, pairs (name, overrides), and SEEDS"),
        ('ROWS = (("a", {}), ("a", {"model.bits": 2}))', "two rows have the name 'a'"),
        ('ROWS = (("a b", {}), ("A, b", {}))', "the rows 'a b' and 'A, b' have the same folder"),
        (
            'ROWS = (("a", {}), ("b", {"model.bitz": 2}))',
            "row 'b': unknown config key 'model.bitz'; did you mean 'model.bits'?",
        ),
        ('ROWS = (("a", {"seed": 2}),)', "row 'a': unknown config key 'seed'"),
        ('ROWS = (("a",),)', "a row is a pair (name, overrides); found ('a',)"),
        ('ROWS = (("a", {"model.bits": "four"}),)', "row 'a': "),
        ('ROWS = (("a", {"model.bits": 9}),)', "row 'a': config.model: weights have 1 to 8 bits"),
        (
            'ROWS = (("a", {}), ("bits", {}))\nAGAINST = {"bits": "b"}',
            "AGAINST: there is no row 'b'",
        ),
        (
            'ROWS = (("twin", {}), ("b", {"distill.teacher": "row:twim"}))',
            "row 'b': there is no row 'twim'; did you mean 'twin'?",
        ),
        (
            'ROWS = (("a", {}), ("b", {"distill.teacher": "/nowhere", "distill.fgd": 1.0}))',
            "row 'b': config.distill.teacher=/nowhere: workdir /nowhere: no such directory",
        ),
        (
            'ROWS = (("a", {"data.mean": (0.5,)}), ("b", {"distill.teacher": "row:a", "distill.kd": 1.0}))',
            "row 'b': the teacher, row 'a', has data.mean=(0.5,); expected (0.31,)",
        ),
        (
            'ROWS = (("a", {"start_from": "row:b"}), ("b", {"start_from": "row:a"}))',
            "row 'a': row 'b' refers to another row itself",
        ),
    ],
)
def test_mistakes_are_told_before_any_training(study, capsys, monkeypatch, rows, told):
    def work(*args):
        raise AssertionError("the mistake was not seen")

    monkeypatch.setattr("launch.ablate.train", work)
    status, workdir = study(rows)
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (2, 1) and told in err, err
    assert not workdir.exists()


def test_a_row_that_was_run_otherwise(study, trained, capsys):
    _, workdir = study(ROWS)
    assert study(ROWS.replace('"model.levels": 1', '"model.levels": 1, "epochs": 3'))[0] == 2
    assert "row 'binary' was run with another configuration" in capsys.readouterr().err
    assert "epochs was 30, is 3" not in (workdir / "results.md").read_text()


def test_a_row_without_a_checkpoint_is_begun_anew(study, trained):
    _, workdir = study(ROWS)
    trained[0].clear()
    for seed in (0, 1):
        run = workdir / f"runs/binary/seed{seed}"
        (run / "summary.json").unlink()
        (run / "checkpoints" / "1").rmdir()
    assert study(ROWS.replace('"model.levels": 1', '"model.levels": 1, "epochs": 3'))[0] == 0
    assert trained[0] == ["binary/seed0", "binary/seed1"]


def lose_checkpoints(workdir: Path, row: str, *files: str) -> None:
    for seed in (0, 1):
        run = workdir / f"runs/{row}/seed{seed}"
        (run / "checkpoints" / "1").rmdir()
        for file in files:
            (run / file).unlink()


@pytest.mark.parametrize("summary_knows", [True, False])
def test_a_summary_of_another_configuration_is_not_done(study, trained, capsys, summary_knows):
    """Though the checkpoints are gone; an older summary has its configuration beside it."""
    _, workdir = study(ROWS)
    lose_checkpoints(workdir, "binary")
    if summary_knows:
        for seed in (0, 1):
            run = workdir / f"runs/binary/seed{seed}"
            summary = json.loads((run / "summary.json").read_text())
            summary["config"] = json.loads((run / "config.json").read_text())
            (run / "summary.json").write_text(json.dumps(summary))
            (run / "config.json").unlink()
    trained[0].clear(), capsys.readouterr()
    assert study(ROWS)[0] == 0 and trained[0] == []
    other = ROWS.replace('"model.levels": 1', '"model.levels": 1, "epochs": 3')
    assert study(other)[0] == 2 and trained[0] == []
    told = capsys.readouterr().err
    assert "row 'binary' was run with another configuration" in told and "epochs was 30, is 3" in told
    assert study(other, "--only=twin")[0] == 0 and trained[0] == []
    assert results(workdir)["binary", "0"]["top1"] == ""
    assert "another configuration" in results(workdir)["binary", "0"]["failure"]


def test_a_row_of_which_nobody_knows_what_it_is(study, trained, capsys):
    _, workdir = study(ROWS)
    run = workdir / "runs/binary/seed1"
    (run / "data.json").unlink()
    assert study(ROWS)[0] == 2
    assert f"{run} is not the workdir of a run: it has no data.json" in capsys.readouterr().err
    write_data(run, DIGITS)
    (run / "config.json").unlink()
    assert study(ROWS)[0] == 2
    assert f"{run} is not the workdir of a run: it has no config.json" in capsys.readouterr().err
    (run / "checkpoints" / "1").rmdir()  # The summary names no configuration either.
    assert study(ROWS)[0] == 2
    (run / "summary.json").write_text("{")
    assert study(ROWS)[0] == 2
    assert f"{run}/summary.json is no JSON, or damaged" in capsys.readouterr().err.splitlines()[-1]


def test_a_row_on_other_data_is_not_done(study, trained, capsys):
    """The place of the data may be another, but not what lies there."""
    _, workdir = study(ROWS)
    trained[0].clear()
    moved = "--config.data.path=/elsewhere"  # Of no matter for the digits, which are the same everywhere.
    assert study(ROWS, moved)[0] == 0 and trained[0] == []
    write_data(workdir / "runs/binary/seed1", DIGITS[::-1])
    assert study(ROWS)[0] == 0 and trained[0] == []
    capsys.readouterr()
    assert study(ROWS, moved)[0] == 2 and trained[0] == []
    told = capsys.readouterr().err
    assert told.startswith("error: row 'binary': the training split has the classes of the run in"), told
    (workdir / "runs/binary/seed1/data.json").write_text('{"class_names": null, "training_images": 9}')
    assert study(ROWS, moved)[0] == 2
    assert "of 9 training images, these are 1,437" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"final": {}},
        {"final": None},
        {"final": {"eval/top1": "50"}},
        {"final": {"eval/top1": None}},
        {"parameters": None},
        {"images_per_second": "fast"},
        {"commit": 7},
        {"config": 7},
        {"sources": {"start_from": 1}},
    ],
)
def test_a_summary_that_is_none(study, trained, capsys, change):
    _, workdir = study(ROWS)
    file = workdir / "runs/binary/seed1/summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    trained[0].clear(), capsys.readouterr()
    assert study(ROWS)[0] == 2 and trained[0] == []
    assert f"{file} is no summary of a run (" in capsys.readouterr().err
    assert study(ROWS, "--only=twin")[0] == 0
    assert "is no summary" in results(workdir)["binary", "1"]["failure"]


def test_a_picture_that_cannot_be_drawn_ends_no_study(study, trained, caplog):
    _, workdir = study(ROWS, "--only=twin")
    (workdir / "results.png").unlink()
    (workdir / "results.png").mkdir()
    trained[0].clear()
    assert study(ROWS)[0] == 0 and len(trained[0]) == 4
    assert results(workdir)["binary", "1"]["top1"] != ""
    assert "results.png cannot be drawn" in caplog.text


def test_a_key_that_came_after_the_study(study, trained):
    _, workdir = study(ROWS)
    file = workdir / "runs/binary/seed1/config.json"
    config = json.loads(file.read_text())
    del config["model"]["reset"], config["parallel"], config["start_from"]
    file.write_text(json.dumps(config))
    trained[0].clear()
    assert study(ROWS)[0] == 0 and trained[0] == []


def test_a_finished_student_of_another_teacher_is_not_done(study, trained, capsys, monkeypatch):
    _, workdir = study(ROWS)
    for seed in (0, 1):
        run, teacher = (workdir / f"runs/{row}/seed{seed}" for row in ("float_kd", "twin"))
        summary = json.loads((run / "summary.json").read_text())
        summary["sources"] = {"distill.teacher": {"place": str(teacher), "step": 1, "checksum": 7}}
        (run / "summary.json").write_text(json.dumps(summary))
    trained[0].clear()
    assert study(ROWS)[0] == 0 and trained[0] == []  # The teacher's checkpoint cannot be read any more.
    monkeypatch.setattr("qsdt_jax.experiment.sources.stored_checksum", lambda workdir, step: 8)
    capsys.readouterr()
    assert study(ROWS)[0] == 2
    assert "holds another checkpoint of step 1 than before" in capsys.readouterr().err
