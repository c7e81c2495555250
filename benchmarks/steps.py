"""Commands one after the other within a time; what fails or takes too long stops no other."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

TOLD_LINES = 30
SHORTEST = 5.0  # Seconds in which nothing is worth to be begun.


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      name: of what it finds out.
      command: its words.
      limit: seconds that it may take: those of a slow machine, after which something is wrong.
      output: the JSON that it writes.
    """

    name: str
    command: Sequence[str]
    limit: float
    output: Path | None = None


def run_all(
    steps: Sequence[Step],
    seconds: float,
    folder: Path,
    env: dict[str, str],
    after: Callable[[list[dict]], None],
) -> list[dict[str, Any]]:
    """Runs the steps, the most important ones first; `after` sees what is known after each of them.

    Args:
      steps: each has its limit, or less where less is left of `seconds`.
      seconds: of all together; what a step does not take is there for those after it.
      folder: for the logs.
      env: environment of the commands.
      after: called with what is returned in the end, so far as it is known.

    Returns:
      For each step "name", "command", "limit", "seconds", "status" (done, failed, timed out or not begun, for
      want of time), "told" (the last lines of its output) and "result", what stands in its JSON, or None.
    """
    end, found = time.monotonic() + seconds, []
    for step in steps:
        found.append(_run(step, min(step.limit, end - time.monotonic()), folder, env))
        after(found)
    return found


def _run(step: Step, limit: float, folder: Path, env: dict[str, str]) -> dict[str, Any]:
    log, start = folder / f"{step.name.replace(' ', '_')}.log", time.monotonic()
    status = "not begun"
    with log.open("wb") as file:
        try:
            if limit >= min(SHORTEST, step.limit):
                status = _status(step.command, limit, file, env)
        except OSError as error:
            status = "failed"
            file.write(str(error).encode())
    told = log.read_text(errors="replace").splitlines()[-TOLD_LINES:]
    return {
        "name": step.name,
        "command": " ".join(step.command),
        "limit": limit,
        "seconds": time.monotonic() - start,
        "status": status,
        "told": told,
        "result": _read(step),
    }


def _status(command: Sequence[str], limit: float, file: BinaryIO, env: dict[str, str]) -> str:
    # A session of its own, so that all processes of the step end with it.
    process = subprocess.Popen(
        command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )
    try:
        return "done" if process.wait(limit) == 0 else "failed"
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """Ends the step and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(step: Step) -> Any:
    """What the step has written; None where that is no JSON."""
    try:
        return None if step.output is None else json.loads(step.output.read_text())
    except (OSError, ValueError):
        return None
