"""A start that is refused leaves a workdir as it was, byte for byte."""

import json
import shutil
import types
from pathlib import Path

import pytest

from qsdt_jax.files import locked
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.workdir import checkpoint
from tests.launch.tiny import draw_variables, launch, make_state, tiny_config, write_workdir

pytestmark = pytest.mark.slow

CONFIG = tiny_config(epochs=2, ema_decay=0.0)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run between its steps."""
    folder = tmp_path_factory.mktemp("stopped")
    write_workdir(folder, CONFIG, {3: make_state(CONFIG, draw_variables(CONFIG, 0))})
    data = {"training_images": 1437, "class_names": list("0123456789"), "sources": {}}
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "metrics.jsonl").write_text('{"step": 9}\n')  # Of steps that were not saved.
    return folder


@pytest.fixture
def workdir(stopped, tmp_path) -> Path:
    (tmp_path / "config.py").write_text(
        "from tests.launch.tiny import tiny_config\n"
        "def get_config():\n    return tiny_config(epochs=2, ema_decay=0.0)\n"
    )
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def refused(workdir: Path, capsys, *words: object) -> str:
    before = listing(workdir)
    assert launch(f"--config={workdir.parent}/config.py", f"--workdir={workdir}", *words) == 2
    assert listing(workdir) == before
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    return lines[-1]


def listing(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() if file.is_file() else b"" for file in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.bits=2"], "model.bits was 4, is 2"),
        (["data.digits_images=800", "log.every_steps=7"], "data.digits_images was 0, is 800"),
        (["data.path=/elsewhere", "batch_size=1000000"], "exceeds the 1437 training images"),
        (["log.every_steps=7", "accumulate=7"], "does not divide"),
        (["parallel.fsdp=3"], "config.parallel.fsdp=3 does not divide"),
        (["distill.teacher=/nowhere", "distill.fgd=0.1"], "/nowhere: no such directory"),
        (["start_from=/nowhere"], "start_from was '', is '/nowhere'"),
        (["log.every_steps=0"], "config.log.every_steps=0"),
        (["profile.steps=9-1"], "config.profile.steps"),
    ],
)
def test_a_refused_start(workdir, capsys, overrides, told):
    assert told in refused(workdir, capsys, *(f"--config.{override}" for override in overrides))
    assert load_trained(workdir).step == 3


def test_other_data_or_none(workdir, capsys):
    file = workdir / "data.json"
    data = json.loads(file.read_text())
    for changes, told in (
        ({"training_images": 9}, "of 9 training images, these are 1,437"),
        ({"class_names": list("9876543210")}, "in another order: '0' where the network has '9'"),
        ({"class_names": list("01234")}, "10 classes, but the run in"),
        ({"class_names": "01234"}, "expected a list of class names"),
    ):
        file.write_text(json.dumps({**data, **changes}))
        assert told in refused(workdir, capsys, "--config.log.every_steps=7")
    file.unlink()
    assert "it has no data.json" in refused(workdir, capsys)


def test_a_configuration_that_is_gone_or_of_another_version(workdir, capsys):
    file = workdir / "config.json"
    config = json.loads(file.read_text())
    del config["loss"], config["model"]["reset"], config["data"]["classes"]
    file.write_text(json.dumps(config))
    assert "model.bits was 4, is 2" in refused(workdir, capsys, "--config.model.bits=2")
    assert load_trained(workdir).step == 3
    for content, told in (
        ({**config, "momentum": 0.9}, "is not of this version: it has the unknown key 'momentum'"),
        ({**config, "epochs": "2"}, "is not of this version: epochs is '2'"),
    ):
        file.write_text(json.dumps(content))
        assert told in refused(workdir, capsys)
        assert launch("eval", f"--workdir={workdir}") == 2 and told in capsys.readouterr().err
    file.write_text("{")
    assert "config.json is no JSON, or damaged" in refused(workdir, capsys)
    file.unlink()
    assert "it has no config.json" in refused(workdir, capsys)
    assert launch("eval", f"--workdir={workdir}") == 2
    assert "it has no config.json" in capsys.readouterr().err


def test_another_run_is_there(workdir, capsys):
    with locked(workdir / ".lock"):
        assert "is in use by another run" in refused(workdir, capsys, "--config.log.every_steps=7")


def test_no_room(workdir, capsys, monkeypatch):
    (workdir / ".lock").touch()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
        told = refused(workdir, capsys, "--config.log.every_steps=7")
    assert "expected" in told and "of free space, found 0.0 MB" in told


def test_only_damaged_checkpoints(workdir, capsys):
    (workdir / ".lock").touch()
    for file in (workdir / "checkpoints" / "3" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert "are damaged" in refused(workdir, capsys, "--config.log.every_steps=7")
