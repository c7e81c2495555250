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


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      name: of what it finds out.
      command: its words.
      limit: seconds that it may take, besides what the steps before it have left of theirs.
      output: the JSON that it writes.
    """

    name: str
    command: Sequence[str]
    limit: float
    output: Path | None = None


def run_all(
    steps: Sequence[Step],
    folder: Path,
    env: dict[str, str],
    after: Callable[[list[dict]], None],
) -> list[dict[str, Any]]:
    """Runs the steps, together as long as their limits; `after` sees what is known after each of them.

    Returns:
      For each step "name", "command", "limit", "seconds", "status" (done, failed or timed out), "told" (the
      last lines of its output) and "result", what stands in its JSON, or None.
    """
    end, found = time.monotonic(), []
    for step in steps:
        end += step.limit
        found.append(_run(step, end - time.monotonic(), folder, env))
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
