"""A run of the small net of `tests.train.spread` as one of several processes, or over several forced devices.

A process is forked from one that has imported everything, see `tests.train.runs`. A hook of the test, not of
the project, sends it a signal while it reads the batch of some step, or while it compiles.
"""

import contextlib
import dataclasses
import gc
import itertools
import json
import os
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import struct

from qsdt_jax.data.pipeline import evaluation_batches, training_batches
from qsdt_jax.data.sources import FakeSource
from qsdt_jax.errors import UserError
from qsdt_jax.processes.joining import joined
from qsdt_jax.processes.peers import Peers
from qsdt_jax.processes.preemption import Preempted
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.train.loop import train
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.run import Run
from tests.conftest import GARBAGE
from tests.train import spread
from tests.train.runs import printed_to

STEPS, BATCH, EVALUATED, IMAGES = 12, 16, 5, 40


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of the run.

    Attributes:
      workdir: of the run.
      devices: of this process.
      mode: "jit" or "pmap"; fsdp with "jit".
      count, index, address: of the processes.
      code: of which this process says to be.
      more_images: how many more to evaluate this process finds.
      signal, at: what this process sends itself when it reads the batch of this step; 0 for nothing.
      compiling: instead, it does so in this of its compilations, from 1, which then never ends.
    """

    workdir: str
    devices: int = 1
    mode: str = "jit"
    fsdp: int = 1
    count: int = 1
    index: int = 0
    address: str = ""
    code: str = ""
    more_images: int = 0
    signal: int = 0
    at: int = 0
    compiling: int = 0


class Taught(struct.PyTreeNode):
    """The task of `spread`, with an array as that of a teacher is."""

    student: Classification = struct.field(pytree_node=False)
    teacher: jax.Array

    metrics = Classification.metrics

    @property
    def model(self):
        return self.student.model

    @property
    def class_names(self):
        return self.student.class_names

    @property
    def loss_title(self):
        return self.student.loss_title

    def batch_shapes(self, size):
        return self.student.batch_shapes(size)

    def init(self, key):
        return self.student.init(key)

    def loss(self, variables, batch, key, step: jax.Array | int = 0):
        loss, (statistics, metrics) = self.student.loss(variables, batch, key, step)
        return loss, (statistics, {**metrics, "teacher": jnp.sum(self.teacher)})

    def outputs(self, variables, batch):
        return self.student.outputs(variables, batch)

    def score(self, outputs, batch):
        return self.student.score(outputs, batch)

    def summarize(self, total, truth):
        return self.student.summarize(total, truth)


def build(start: Start) -> Run:
    """The run; the labels that each process reads are noted in its workdir."""
    parallel = Parallel(mode=start.mode, fsdp=start.fsdp, smallest_cut=32)  # pyright: ignore[reportArgumentType]
    notes = Path(start.workdir + f".read.{start.index}")

    def training_data(first: int):
        batches = training_batches(
            FakeSource(IMAGES, (12, 12, 1), spread.CLASSES),
            spread.PREPROCESS.train,
            seed=3,
            batch_size=BATCH,
            first_step=first,
            rows=parallel.rows(BATCH),
        )
        for step, batch in zip(itertools.count(first + 1), batches, strict=False):
            if start.signal and step == start.at:
                send(start)
            image = spread.inputs(batch["image"])
            with notes.open("a") as stream:
                stream.write(json.dumps({"step": step, "pixels": image.sum((1, 2, 3)).tolist()}) + "\n")
            yield {**batch, "image": image}

    size = parallel.evaluation_batch_size(EVALUATED)
    return Run(
        config={"steps": STEPS, "code": start.code},
        task=Taught(student=spread.task(), teacher=jnp.ones(3)),
        optimizer=optax.sgd(0.05),
        schedule=optax.constant_schedule(0.05),
        training_data=training_data,
        evaluation_data={
            "test": lambda: evaluation_batches(
                FakeSource(spread.SPLIT, (12, 12, 1), spread.CLASSES),
                spread.PREPROCESS.evaluate,
                batch_size=size,
                rows=parallel.rows(size),
            )
        },
        normalization=spread.PREPROCESS.normalization,
        training_images=IMAGES,
        evaluation_images=spread.SPLIT + start.more_images,
        total_steps=STEPS,
        batch_size=BATCH,
        log_every=1,
        eval_every=6,
        save_every=5,
        parallel=parallel,
    )


def send(start: Start) -> None:
    """Sends the signal, and notes when."""
    Path(start.workdir + ".sent").touch()
    os.kill(os.getpid(), start.signal)


def stop_compiling(start: Start) -> None:
    """Makes one compilation send the signal and never end."""
    compile_, counted = jax.stages.Lowered.compile, itertools.count(1)

    def compiled(*args, **kwargs):
        if next(counted) == start.compiling:
            send(start)
            threading.Event().wait()
        return compile_(*args, **kwargs)

    jax.stages.Lowered.compile = compiled


def main(start: Start) -> int:
    if start.compiling:
        stop_compiling(start)
    processes: contextlib.AbstractContextManager[Peers | None] = contextlib.nullcontext()
    if start.address:
        facts = {"steps": STEPS, "code": start.code}
        processes = joined(start.address, start.count, start.index, facts, timeout=60)
    try:
        with processes as peers:
            train(build(start), start.workdir, peers=peers)
    except UserError as error:
        print("error:", error, file=sys.stderr)
        return 2
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        sys.stderr.flush()
        os._exit(0)
    return 0


def begin(settings: Start, output: Path) -> None:
    """The whole of a process, which prints into a file."""
    gc.set_threshold(*GARBAGE)
    printed_to(output)
    jax.config.update("jax_num_cpu_devices", settings.devices)
    jax.config.update("jax_enable_x64", True)
    # What a step takes lies where it is needed.
    jax.config.update("jax_transfer_guard_device_to_device", "disallow")
    jax.config.update("jax_disable_most_optimizations", True)  # Of the compiler: it is quicker.
    sys.exit(main(settings))
