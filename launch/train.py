"""train a network, evaluate it, and go on where the workdir stands when run again."""

import contextlib
import threading

import jax
from absl import flags

from launch.flags import define_config, define_path
from launch.recipe import recipe
from qsdt_jax import bounds
from qsdt_jax.assemble.build import plain
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.run import make_run
from qsdt_jax.processes.joining import is_first, joined
from qsdt_jax.processes.peers import Peers
from qsdt_jax.progress import tell
from qsdt_jax.train.loop import train
from qsdt_jax.train.run import Run
from qsdt_jax.workdir.provenance import code_version

CONFIG = define_config()
WORKDIR = define_path("workdir", "directory for checkpoints, metrics and pictures")
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "of several processes: HOST:PORT where process 0 listens (with IPv6 [ADDRESS]:PORT), the same for all, "
    "or auto on a cluster",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "of the run, with --coordinator=HOST:PORT")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "of this process, from 0, with --coordinator=HOST:PORT")
COORDINATOR_TIMEOUT = flags.DEFINE_float("coordinator_timeout", 300.0, "seconds to wait for other processes")


def main() -> None:
    """Trains as the flags say and prints the result."""
    if CONFIG.value is None or not WORKDIR.value:
        raise UserError("train needs --config FILE and --workdir DIR")
    if CONFIG.value.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    with _processes() as peers:
        run = make_run(CONFIG.value, WORKDIR.value)
        summary = train(run, WORKDIR.value, begin=_show_recipe, peers=peers)
        form, writes = run.metric.form, is_first()
    if not writes:
        return
    final, best = summary["final"], summary["best"]
    for name, value in final.items():
        print(f"{name} {value:{form}} (best {best[name]:{form}} at step {best['step']})")
    print(f"{WORKDIR.value}: summary.json, metrics.jsonl, curves.png, checkpoints, tensorboard")


def _show_recipe(run: Run) -> None:
    tell(recipe(run))


def _processes() -> contextlib.AbstractContextManager[Peers | None]:
    """Joins the other processes, if the flags say that there are some."""
    if not 0 < COORDINATOR_TIMEOUT.value < threading.TIMEOUT_MAX:
        raise UserError(f"--coordinator_timeout={COORDINATOR_TIMEOUT.value} is no number of seconds to wait")
    if (NUM_PROCESSES.value or 0) > bounds.PROCESSES:
        raise UserError(f"--num_processes={NUM_PROCESSES.value} must be at most {bounds.PROCESSES}")
    if not COORDINATOR.value:
        if NUM_PROCESSES.value is not None or PROCESS_ID.value is not None:
            raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
        return contextlib.nullcontext()
    return joined(
        COORDINATOR.value,
        NUM_PROCESSES.value,
        PROCESS_ID.value,
        {"config": plain(CONFIG.value), "code": code_version()},
        timeout=COORDINATOR_TIMEOUT.value,
    )
