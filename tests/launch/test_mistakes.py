"""A mistake of the user's is one line and exit status 2, before any work is done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.digits import get_config
from launch.__main__ import VERBS
from tests.launch.tiny import launch, write_data

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
DIGITS = f"--config={CONFIGS}/digits.py"


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Training ends where it would restore, compile or write anything but its lock and configuration."""

    def work(*args):
        raise AssertionError("the mistake was not seen")

    monkeypatch.setattr("qsdt_jax.train.loop._Session", work)


@pytest.fixture
def refusal(capsys):
    """What a command line that is refused prints, without "error: "."""

    def run(*arguments: object) -> str:
        assert launch(*arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        return err.removeprefix("error: ").rstrip("\n")

    return run


def test_the_command_without_a_mistake_gets_to_work(tmp_path):
    with pytest.raises(AssertionError, match="the mistake was not seen"):
        launch(DIGITS, f"--workdir={tmp_path}/run", "--config.model.channels=(8, 8, 16, 16)")


# Verbs and flags


def test_unknown_verb(refusal):
    assert refusal("trian", DIGITS) == (
        "unknown verb 'trian'; the verbs are train, eval, predict, export, energy, verify, merge, "
        "information, inspect, ablate, bench, import-torch, prepare"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([DIGITS], "train needs --config FILE and --workdir DIR"),
        (["--workdir=w"], "train needs --config FILE and --workdir DIR"),
        ([DIGITS, "--workdir="], "train needs --config FILE and --workdir DIR"),
        ([DIGITS, "--workdir"], "Missing value for flag --workdir"),
        (["--config"], "Missing value for flag --config"),
        ([DIGITS, "--wrokdir=w"], "unknown flag --wrokdir; did you mean 'workdir'?"),
        ([DIGITS, "--workdir=w", "--quick"], "unknown flag --quick"),
        (
            [DIGITS, "--workdir=w", "--process_id=1"],
            "--num_processes and --process_id need --coordinator=HOST:PORT",
        ),
        (
            [DIGITS, "--workdir=w", "--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "coordinator=a:1 needs num_processes=N and process_id=0..N-1, found 2 and 2",
        ),
        (
            ["-config", f"{CONFIGS}/digits.py", "-config.model.bitz=3"],
            "-config begins with one dash; a flag begins with two, --config",
        ),
        (
            [DIGITS, "-config.model.bitz=3"],
            "-config.model.bitz=3 begins with one dash; a flag begins with two, --config.model.bitz=3",
        ),
        ([DIGITS, "--config", "b.py"], "--config is given more than once; expected one file"),
        (["--config.epochs=2"], "--config.KEY=VALUE needs --config FILE before it"),
        (
            ["--config.epochs=2", DIGITS, "--workdir=w"],
            "Found --config.epochs=2 in argv before a value for --config was specified",
        ),
    ],
)
def test_flags(refusal, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert refusal(*arguments) == told
    assert not list(tmp_path.iterdir())


def test_an_argument_without_a_name(tmp_path):
    """In a process of its own: here other verbs, which take some, are imported as well."""
    command = [sys.executable, "-m", "launch", DIGITS, f"--workdir={tmp_path}/w", "more"]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unexpected argument 'more'; flags look like --name=value\n"


# Config files


def test_config_file_that_is_not_there(refusal, tmp_path):
    near = f"--config {CONFIGS}/digit.py: no such file; did you mean '{CONFIGS}/digits.py'?"
    assert refusal(f"--config={CONFIGS}/digit.py", "--workdir=w") == near
    for path in (tmp_path, tmp_path / "none" / "x.py"):
        assert refusal("--config", path, "--workdir=w") == f"--config {path}: no such file"


def changed(line: str) -> str:
    """A config file that changes the base in one line."""
    body = f"    c = base_config()\n    {line}\n    return c\n"
    return f"from qsdt_jax.configuration.defaults import base_config\ndef get_config():\n{body}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (x.py, line 1)"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("", "AttributeError: module 'checked_config' has no attribute 'get_config'"),
        ("def get_config(): raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def get_config(): return 4", "get_config() gave int, expected ConfigDict"),
        (changed("c.model.bitz = 2"), "unknown config key 'model.bitz'; did you mean 'model.bits'?"),
        (changed("c.optimiser = 'sgd'"), "unknown config key 'optimiser'"),
        (
            changed("del c.model.bits"),
            "config key 'model.bits' is missing; begin with configs.base",
        ),
        (changed("c.epochs = 'many'"), "TypeError: Could not override field 'epochs'"),
    ],
)
def test_config_file_with_a_mistake(refusal, tmp_path, text, told):
    file = tmp_path / "x.py"
    file.write_text(text)
    assert refusal("--config", file, "--workdir=w").startswith(f"--config {file}: {told}")


def test_config_file_of_another_kind(refusal, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    told = f"--config {tmp_path}/config.json: ImportError: not a Python file"
    assert refusal(f"--config={tmp_path}/config.json", "--workdir=w") == told
    assert "unknown variant 'argument'; there is 'twin'" in refusal(f"{DIGITS}:argument", "--workdir=w")


# Overrides


LEARNING_RATE = "'optimizer.learnin_rate'; did you mean 'optimizer.learning_rate'?"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.bitz=2", "unknown config key 'model.bitz'; did you mean 'model.bits'?"),
        ("bits=2", "unknown config key 'bits'; did you mean 'model.bits'?"),
        ("optimizer.learnin_rate=1", f"unknown config key {LEARNING_RATE}"),
        (
            "model.module_bits.head=8",
            "unknown config key 'model.module_bits.head'; it is 'model.bits_rules' now",
        ),
        ("zzz=2", "unknown config key 'zzz'"),
        ("model=2", "unknown config key 'model'; did you mean 'model.bits'?"),
        ("model.bits=two", "flag --config.model.bits=two: invalid literal for int() with base 10: 'two'"),
        ("model.bits=2.5", "flag --config.model.bits=2.5: invalid literal for int() with base 10: '2.5'"),
        ("model.bits", "Missing value for flag --config.model.bits"),
        ("ema_decay=much", "flag --config.ema_decay=much: could not convert string to float: 'much'"),
        ("model.decay=none", "flag --config.model.decay=none: could not convert string to float: 'none'"),
        ("model.channels=(8, 8", "flag --config.model.channels=(8, 8: Error while parsing string: (8, 8"),
    ],
)
def test_keys_and_types(refusal, override, told):
    assert refusal(DIGITS, "--workdir=w", f"--config.{override}").startswith(told)


# Workdirs


def test_workdir_that_cannot_be_one(refusal, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        assert refusal(DIGITS, "--workdir", path) == f"workdir {path} is a file; expected a directory"
    told = refusal(DIGITS, "--workdir=/proc/run")
    assert told == "workdir /proc/run cannot be written: No such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_workdir_without_permission(refusal, tmp_path):
    tmp_path.chmod(0o500)
    told = refusal(DIGITS, f"--workdir={tmp_path}/run")
    assert told == f"workdir {tmp_path}/run cannot be written: Permission denied"


@pytest.mark.slow
def test_workdir_of_another_configuration(refusal, tmp_path, capsys):
    with pytest.raises(AssertionError):
        launch(DIGITS, "--workdir", tmp_path)
    assert "steps of warm-up" in capsys.readouterr().err
    with pytest.raises(AssertionError):  # Nothing is saved that another one could spoil.
        launch(DIGITS, "--workdir", tmp_path, "--config.model.bits=3")
    with pytest.raises(AssertionError):
        launch(DIGITS, "--workdir", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "checkpoints"}
    (tmp_path / "config.json").write_text(json.dumps(get_config().to_dict()))
    write_data(tmp_path, tuple("0123456789"))
    (tmp_path / "checkpoints" / "5").mkdir()
    capsys.readouterr()
    told = refusal(DIGITS, "--workdir", tmp_path, "--config.model.bits=2", "--config.epochs=3")
    differences = "epochs was 30, is 3; model.bits was 4, is 2"
    assert told == f"workdir {tmp_path} belongs to a run of another configuration: {differences}"
    with pytest.raises(AssertionError):  # How often is logged and saved changes no number.
        launch(
            DIGITS, "--workdir", tmp_path, "--config.log.every_steps=7", "--config.checkpoint.keep_latest=1"
        )


# As a process


def test_a_real_process(tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "launch", DIGITS, f"--workdir={workdir}", "--config.model.bits=0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: config.model: weights have 1 to 8 bits (32 for float), got 0\n"
    assert not workdir.exists()


def test_help_names_the_verbs(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert launch(*arguments) == 0
        text = capsys.readouterr().out
        assert [verb for verb in VERBS if f"\n  {verb} " not in text] == []
    for verb in VERBS:
        assert launch(verb, "--help") == 0
        assert capsys.readouterr().out.startswith(f"python -m launch {verb}: ")


@pytest.mark.parametrize("words", [["train"], ["ablate", "--only=none"], ["inspect", "--devices=0"]])
def test_a_config_file_runs_once(refusal, tmp_path, words):
    """Nothing that it does is done twice, and what it reads is read once."""
    rows = "ROWS, SEEDS = [('one', {'model.bits': 2})], 1\n"
    count = f"with open({str(tmp_path / 'runs')!r}, 'a') as file: file.write('x')\n"
    (tmp_path / "x.py").write_text(changed("c.epochs = 2") + rows + count)
    refusal(*words, "--config", tmp_path / "x.py", "--workdir", tmp_path / "w", "--config.epochs=3")
    assert (tmp_path / "runs").read_text() == "x"


def test_a_flag_is_the_same_in_every_verb():
    """Verbs that are imported into one process share their flags: the last one's definition holds for all."""
    kinds = subprocess.run(
        [sys.executable, "-c", KINDS_OF_FLAGS], check=True, capture_output=True, text=True, timeout=300
    )
    assert json.loads(kinds.stdout) == {}


KINDS_OF_FLAGS = """
import collections, importlib, json
from absl import flags
from launch.__main__ import VERBS

kinds = collections.defaultdict(set)
defined = {}
for module in VERBS.values():
    importlib.import_module(module)
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if defined.get(name) is not flag:
            parser = {k: v for k, v in vars(flag.parser).items() if isinstance(v, (int, float, str, list))}
            kinds[name].add(f"{type(flag.parser).__name__} {parser} {flag.default}")
        defined[name] = flag
assert "config" in kinds and len(kinds) > 30
print(json.dumps({name: sorted(of) for name, of in kinds.items() if len(of) > 1}))
"""
