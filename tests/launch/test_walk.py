"""How a configuration walks from the command line to the training loop."""

import collections
import sys
from pathlib import Path

import ml_collections

from qsdt_jax.errors import UserError
from tests.launch.processes import TINY
from tests.launch.tiny import launch

ROOT = Path(__file__).parents[2]
ROOMS = tuple(f"{ROOT / room}/" for room in ("configs", "launch", "qsdt_jax"))  # Not an environment in ROOT.
MOST = 2  # Times that a file is entered: to check, and to build.


def test_the_configuration_enters_no_file_more_than_twice(tmp_path, monkeypatch, capsys):
    """An entry is a call from another file that gives it the configuration, or a section of it."""
    entries: collections.Counter[str] = collections.Counter()

    def profile(frame, event, argument):
        if event != "call" or frame.f_back is None:
            return
        code = frame.f_code
        file, caller = code.co_filename, frame.f_back.f_code.co_filename
        if file == caller or not file.startswith(ROOMS) or not caller.startswith(ROOMS):
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(isinstance(frame.f_locals.get(name), ml_collections.ConfigDict) for name in names):
            entries[f"{Path(file).relative_to(ROOT)}"] += 1

    def train(run, workdir, **options):
        raise UserError("the loop begins here")

    monkeypatch.setattr("launch.train.train", train)
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        launch("train", TINY, f"--workdir={tmp_path}/w", "--config.model.drop_path=0.1")
    finally:
        sys.setprofile(before)
    assert "the loop begins here" in capsys.readouterr().err
    assert {"qsdt_jax/assemble/build.py", "qsdt_jax/assemble/data.py"} <= entries.keys()
    assert {file: count for file, count in entries.items() if count > MOST} == {}
