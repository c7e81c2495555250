"""A run goes on with the teacher that it began with, wherever that lies by then."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.experiment.run import make_run
from qsdt_jax.experiment.sources import other_tokens
from qsdt_jax.workdir.checkpoint import Checkpointer
from qsdt_jax.workdir.workdir import Workdir, read_belongings
from tests.launch.tiny import draw_variables, make_state, tiny_config, write_workdir

pytestmark = pytest.mark.slow

TWIN = {"model.bits": 32, "ema_decay": 0.0}


def save(workdir: Path, step: int, seed: int) -> None:
    config = tiny_config(**TWIN)
    with Checkpointer(workdir / "checkpoints", keep_latest=9) as checkpointer:
        checkpointer.save(step, make_state(config, draw_variables(config, seed)).replace(step=step))


@pytest.fixture
def twin(tmp_path) -> Path:
    folder = tmp_path / "twin"
    folder.mkdir()
    write_workdir(folder, tiny_config(**TWIN), {})
    save(folder, 3, 0)
    return folder


def begin(config, workdir: Path) -> None:
    """A run that has saved something; what, does not matter here."""
    run = make_run(config, workdir)
    with Workdir(workdir) as directory:
        directory.claim(run.belongings)
    (workdir / "checkpoints" / "1").mkdir(parents=True)


def go_on(config, workdir: Path):
    run = make_run(config, workdir)
    with Workdir(workdir) as directory:
        directory.require(run.belongings, run.defaults)
    return run


def refused(config, workdir: Path) -> str:
    with pytest.raises(UserError) as caught:
        go_on(config, workdir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_teacher(twin, tmp_path):
    workdir = tmp_path / "run"
    config = tiny_config(**{"distill.teacher": str(twin), "distill.fgd": 0.1})
    begin(config, workdir)
    save(twin, 5, 1)  # It learns on, which changes nothing for the student.
    assert go_on(config, workdir).sources["distill.teacher"].step == 3
    moved = Path(shutil.move(twin, tmp_path / "moved"))
    assert "config.distill.teacher=" in refused(config, workdir)
    config.distill.teacher = str(moved)
    assert go_on(config, workdir).sources["distill.teacher"].place == str(moved)
    shutil.rmtree(moved / "checkpoints" / "3")
    told = refused(config, workdir)
    assert "of which this run needs step 3" in told and "it holds steps [5]" in told
    shutil.rmtree(moved / "checkpoints")
    save(moved, 3, 2)
    assert f"config.distill.teacher={moved} is another network than the one" in refused(config, workdir)
    config.distill.teacher, config.distill.fgd = "", 0.0
    assert f"distill.teacher was '{twin}', is ''" in refused(config, workdir)


def test_a_run_from_before_teachers_were_noted(twin, tmp_path):
    workdir = tmp_path / "run"
    config = tiny_config(**{"distill.teacher": str(twin), "distill.fgd": 0.1})
    begin(config, workdir)
    data = workdir / "data.json"
    data.write_text(data.read_text().replace('"sources"', '"others"'))
    assert read_belongings(workdir).sources == {}
    assert go_on(config, workdir).sources["distill.teacher"].step == 3
    config.distill.teacher = str(shutil.move(twin, tmp_path / "moved"))
    assert "distill.teacher was" in refused(config, workdir)


def test_a_starting_point(twin, tmp_path, capsys):
    workdir = tmp_path / "run"
    config = tiny_config(**{**TWIN, "start_from": str(twin)})
    begin(config, workdir)
    assert read_belongings(workdir).sources["start_from"].step == 3
    moved = shutil.move(twin, tmp_path / "moved")
    go_on(config, workdir)  # It is not needed any more.
    config.start_from = str(moved)
    assert go_on(config, workdir).sources["start_from"].place == str(moved)
    config.start_from = str(tmp_path / "nowhere")
    assert "no such directory" in refused(config, workdir)
    config.start_from = ""
    assert f"start_from was '{twin}', is ''" in refused(config, workdir)
    shutil.rmtree(Path(moved) / "checkpoints")
    save(Path(moved), 3, 2)
    config.start_from = str(moved)
    assert "is another network than the one" in refused(config, workdir)


@pytest.mark.parametrize(("there", "here", "told"), [(0, 0, ""), (0, 4, ""), (0, 9, "4"), (16, 4, "16")])
def test_other_tokens_than_those_of_the_weights_are_told(there, here, told, tmp_path):
    """The digits of 32x32 have four."""
    source: Any = SimpleNamespace(config=tiny_config(**{"model.attention_tokens": there}), workdir=tmp_path)
    config = tiny_config(**{"model.attention_tokens": here, "start_from": str(tmp_path)})
    line = other_tokens(config, source)
    where = f"config.model.attention_tokens={here}, but the attention of {tmp_path} is meant for images"
    assert line == (f"{where} of {told} tokens" if told else None)


def test_a_starting_point_is_checked_before_the_start(twin, tmp_path, capsys):
    wide = tiny_config(**{**TWIN, "start_from": str(twin), "model.channels": (8, 8, 16, 32)})
    with pytest.raises(UserError, match="the network to start from does not fit"):
        make_run(wide, tmp_path / "run")
    assert not (tmp_path / "run").exists() and capsys.readouterr().err == ""
