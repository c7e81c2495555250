"""Runs of `prepare` in processes of their own, each killed or halted at an exact moment.

`python -m tests.launch.prepare_runs LOG MOMENTS ARGUMENT ...` imports the libraries once and forks a process
for each moment, one after the other. It goes through the command line like `python -m launch`; a hook of the
test, not of the project, sends the signal from inside.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PRELOAD = ["launch.prepare", "qsdt_jax.data.prepare.writer", "tensorflow_datasets"]
ROOT = Path(__file__).parents[2]
SIGNALS = {"kill": signal.SIGKILL, "halt": signal.SIGSTOP, "interrupt": signal.SIGINT}


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a run gets which signal.

    Attributes:
      what: "placing", a file is about to get its name; "record", one is about to be written; "clearing", the
        data set is finished and the leftovers are about to be removed; or "never".
      count: at which time that this comes, from 1.
      signal: "kill"; "interrupt"; or "halt": another run takes place before it goes on.
    """

    what: str = "never"
    count: int = 1
    signal: str = "kill"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status, negative for a signal, and its lines on stderr."""

    status: int
    lines: list[str]


def run(log: Path, moments: Sequence[Moment], *arguments: object) -> list[Ended]:
    """The runs in the order in which they ended; one that is halted ends after the one that it lets pass."""
    given = json.dumps([dataclasses.astuple(moment) for moment in moments])
    words = [sys.executable, "-m", "tests.launch.prepare_runs", str(log), given, *map(str, arguments)]
    log.mkdir()
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return [Ended(status, (log / name).read_text().splitlines()) for status, name in json.loads(ended.stdout)]


def _main(log: Path, moments: list[Moment], arguments: list[str]) -> list[tuple[int, str]]:
    for library in PRELOAD:
        importlib.import_module(library)
    ended = []
    for number, moment in enumerate(moments):
        process = _fork(log / f"{number}.stderr", moment, arguments)
        _, status = os.waitpid(process, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            other = _fork(log / f"{number}.other.stderr", Moment(), arguments)
            _, passed = os.waitpid(other, 0)
            ended.append((os.waitstatus_to_exitcode(passed), f"{number}.other.stderr"))
            os.kill(process, signal.SIGCONT)
            _, status = os.waitpid(process, 0)
        ended.append((os.waitstatus_to_exitcode(status), f"{number}.stderr"))
    return ended


def _fork(stderr: Path, moment: Moment, arguments: list[str]) -> int:
    process = os.fork()
    if process:
        return process
    status = 70
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job ignores it.
    try:
        with open(stderr, "w") as stream:
            os.dup2(stream.fileno(), 2)
            os.dup2(stream.fileno(), 1)
        _install(moment)
        from launch.__main__ import main

        status = main(["prepare", *arguments])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _install(moment: Moment) -> None:
    """Calls `reached` whenever the moment comes."""
    from qsdt_jax.data.prepare.shard_file import ArrayRecordFile

    came = 0

    def before(function):
        def call(*arguments, **options):
            nonlocal came
            came += 1
            if came == moment.count:
                os.kill(os.getpid(), SIGNALS[moment.signal])
            return function(*arguments, **options)

        return call

    match moment.what:
        case "placing":
            os.replace = before(os.replace)
        case "record":
            ArrayRecordFile.write = before(ArrayRecordFile.write)
        case "clearing":
            shutil.rmtree = before(shutil.rmtree)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = _main(Path(sys.argv[1]), [Moment(*given) for given in json.loads(sys.argv[2])], sys.argv[3:])
    print(json.dumps(result))
