"""Runs of the tiny configuration in processes of their own, signalled at an exact moment.

The process is forked from one that has imported everything, and goes through the command line like
`python -m launch`. A hook of the test, not of the project, sends the signal from inside.
"""

import dataclasses
import functools
import gc
import json
import multiprocessing
import os
import signal as signals
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qsdt_jax.workdir.checkpoint import restore_raw
from qsdt_jax.workdir.integrity import leaves_of
from qsdt_jax.workdir.metrics import read_metrics
from qsdt_jax.workdir.workdir import CHECKPOINT_FOLDER, SUMMARY_FILE
from tests.conftest import GARBAGE

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.py"
LIGHT = CONFIG.with_name("light.py")  # With a network that compiles in a tenth of the time.
DEADLINE = 300  # Seconds after which a run counts as hanging.
RATES = "images_per_second"
PRELOAD = [
    "flax",
    "optax",
    "pytest",
    "orbax.checkpoint",
    "grain",
    "launch.train",
    "tests.train.runs",
    "tests.configs.light",
    "tests.configs.light_det",
    "tests.configs.light_seg",
    "tests.launch.two_devices",
    "tests.processes.together",
]


@dataclasses.dataclass(frozen=True)
class Signal:
    """A signal that a run sends itself.

    Attributes:
      number: of the signal.
      moment: "compiling", "training" (a batch is read), "evaluating" (a batch is read), "logged", "saving" (a
        checkpoint is about to get its name), "saved" (it is being written) or "summary".
      count: at which time that the moment comes, from 1.
      block: the thread where it comes waits for ever.
      again: the save that follows never ends, and the signal comes a second time in the middle of it.
    """

    number: signals.Signals
    moment: str
    count: int = 1
    block: bool = False
    again: bool = False


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended: exit status, what it printed, and seconds from the signal to the end."""

    status: int
    lines: list[str]
    seconds: float

    def assert_one_line(self, *words: str) -> None:
        """The last line holds all words, and nothing looks like a traceback."""
        assert not [line for line in self.lines if "Traceback" in line or line.startswith("  File")], self
        assert all(word in self.lines[-1] for word in words), self


def run(
    workdir: Path,
    cache: Path,
    *flags: str,
    signal: Signal | None = None,
    deadline: float = DEADLINE,
    config: Path = CONFIG,
) -> Ended:
    """Runs until the end."""
    process = start(workdir, cache, *flags, signal=signal, config=config)
    process.join(deadline)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the run hangs: {_output(workdir).read_text()}")
    return ended(workdir, process.exitcode)


def start(workdir: Path, cache: Path, *flags: str, signal: Signal | None = None, config: Path = CONFIG):
    """Starts a run and does not wait."""
    _output(workdir).parent.mkdir(parents=True, exist_ok=True)
    return forked(_main, workdir, cache, flags, signal, config)


def forked(function: Callable[..., None], *arguments: Any):
    """A process that begins where everything is imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def printed_to(file: Path) -> None:
    """Leads what this process prints into a file, from whatever language."""
    with open(file, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))


def ended(workdir: Path, status: int) -> Ended:
    """What is known of a run that ended just now."""
    output = _output(workdir)
    sent = output.with_suffix(".sent")
    seconds = time.time() - sent.stat().st_mtime if sent.exists() else 0.0
    return Ended(status, output.read_text().splitlines(), seconds)


def _output(workdir: Path) -> Path:
    return workdir.with_name(workdir.name + ".stderr")


def _main(workdir: Path, cache: Path, flags: tuple[str, ...], signal: Signal | None, config: Path) -> None:
    gc.set_threshold(*GARBAGE)
    printed_to(_output(workdir))
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _output(workdir).with_suffix(".sent").unlink(missing_ok=True)
    if signal is not None:
        _install(signal, _output(workdir).with_suffix(".sent"))
    from launch.__main__ import main

    words = ["--config", str(config), "--workdir", str(workdir), *flags]
    sys.argv = ["launch", *words]  # Where the overrides of a config are looked up.
    sys.exit(main(words))


def _install(signal: Signal, sent: Path) -> None:
    """Calls `reached` whenever the moment of the signal comes."""
    from qsdt_jax.experiment import run as command
    from qsdt_jax.train import loop

    came = 0

    def reached() -> None:
        nonlocal came
        came += 1
        if came == signal.count:
            sent.touch()
            os.kill(os.getpid(), signal.number)
            if signal.again:
                loop.Checkpointer.save = stuck
            if signal.block:
                threading.Event().wait()

    def stuck(*args, **kwargs) -> None:
        sent.touch()
        os.kill(os.getpid(), signal.number)
        threading.Event().wait()

    def before(function: Callable, wanted: Callable[..., bool] = lambda *a, **k: True) -> Callable:
        @functools.wraps(function)
        def hooked(*args, **kwargs):
            if wanted(*args):
                reached()
            return function(*args, **kwargs)

        return hooked

    def after(function: Callable) -> Callable:
        @functools.wraps(function)
        def hooked(*args, **kwargs):
            result = function(*args, **kwargs)
            reached()
            return result

        return hooked

    def read(batches):
        for batch in batches:
            reached()
            yield batch

    def with_data(name: str) -> Callable:
        build = command.build_run

        def build_run(config):
            built = build(config)
            make = getattr(built, name)
            if name == "training_data":
                return dataclasses.replace(built, training_data=lambda step: read(make(step)))
            [(split, data)] = make.items()
            return dataclasses.replace(built, evaluation_data={split: lambda: read(data())})

        return build_run

    match signal.moment:
        case "compiling":
            jax.stages.Lowered.compile = before(jax.stages.Lowered.compile)
        case "training" | "evaluating":
            name = {"training": "training_data", "evaluating": "evaluation_data"}[signal.moment]
            command.build_run = with_data(name)
        case "logged":
            loop.MetricWriter.write = after(loop.MetricWriter.write)
        case "saving":
            os.rename = before(os.rename, lambda old, new: Path(new).parent.name == CHECKPOINT_FOLDER)
        case "saved":
            loop.Checkpointer.save = after(loop.Checkpointer.save)
        case "summary":
            loop.write_atomically = before(loop.write_atomically)
        case other:
            raise ValueError(other)


def outcome(workdir: Path) -> dict[str, Any]:
    """All that must be equal, bit for bit, after an interrupted run and an uninterrupted one."""
    step, tree = restore_raw(workdir / CHECKPOINT_FOLDER)
    leaves, _ = leaves_of(tree)
    summary = json.loads((workdir / SUMMARY_FILE).read_text())
    return {
        "step": step,
        "steps": sorted(int(path.name) for path in (workdir / CHECKPOINT_FOLDER).iterdir()),
        "state": {
            name: (leaf.dtype.name, leaf.shape, np.asarray(leaf).tobytes()) for name, leaf in leaves.items()
        },
        "log": [
            {name: value for name, value in line.items() if RATES not in name}
            for line in read_metrics(workdir)
        ],
        "summary": {name: value for name, value in summary.items() if name != RATES},
    }
