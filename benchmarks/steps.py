"""Commands one after the other, each with a time limit; what fails or takes too long stops no other."""

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
SHORTEST = 5.0  # Seconds without which a step is not begun.


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      name: of what it finds out.
      command: its words.
      limit: seconds that it may take.
      output: the JSON that it writes.
    """

    name: str
    command: Sequence[str]
    limit: float
    output: Path | None = None


def run_all(
    steps: Sequence[Step],
    limit: float,
    folder: Path,
    env: dict[str, str],
    after: Callable[[list[dict]], None],
) -> list[dict[str, Any]]:
    """Runs the steps in at most `limit` seconds; `after` sees what is known after each of them.

    Returns:
      For each step "name", "command", "limit", "seconds", "status" (done, failed, timed out, or skipped where
      no time was left), "told" (the last lines of its output) and "result", what stands in its JSON, or None.
    """
    end, found = time.monotonic() + limit, []
    for step in steps:
        left = end - time.monotonic()
        found.append(_skipped(step) if left < SHORTEST else _run(step, min(left, step.limit), folder, env))
        after(found)
    return found


def _run(step: Step, limit: float, folder: Path, env: dict[str, str]) -> dict[str, Any]:
    log, start = folder / f"{step.name.replace(' ', '_')}.log", time.monotonic()
    with log.open("wb") as file:
        try:
            status = _status(step.command, limit, file, env)
        except OSError as error:
            status = "failed"
            file.write(str(error).encode())
    told = log.read_text(errors="replace").splitlines()[-TOLD_LINES:]
    seconds = time.monotonic() - start
    return {**_about(step, limit), "seconds": seconds, "status": status, "told": told, "result": _read(step)}


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


def _skipped(step: Step) -> dict[str, Any]:
    return {**_about(step, step.limit), "seconds": 0.0, "status": "skipped", "told": [], "result": None}


def _about(step: Step, limit: float) -> dict[str, Any]:
    return {"name": step.name, "command": " ".join(step.command), "limit": limit}


def _read(step: Step) -> Any:
    """What the step has written; None where that is no JSON."""
    try:
        return None if step.output is None else json.loads(step.output.read_text())
    except (OSError, ValueError):
        return None
