"""train a network, evaluate it, and go on where the workdir stands when run again."""

import dataclasses

import jax
import ml_collections
from absl import flags

from launch.build import build_run
from launch.distill import with_teacher
from launch.flags import DEFINED_OFTEN, define_config
from launch.trained import starting_point
from qsdt_jax.errors import UserError
from qsdt_jax.train.loop import Run, train

CONFIG = define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory for checkpoints, metrics and pictures", **DEFINED_OFTEN
)


def main() -> None:
    """Trains as the flags say and prints the result."""
    if CONFIG.value is None or not WORKDIR.value:
        raise UserError("train needs --config FILE and --workdir DIR")
    if CONFIG.value.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    summary = train(prepared_run(CONFIG.value), WORKDIR.value)
    final, best = summary["final"], summary["best"]
    for name, value in final.items():
        print(f"{name} {value:.2f} (best {best[name]:.2f} at step {best['step']})")
    print(f"{WORKDIR.value}: summary.json, metrics.jsonl, curves.png, checkpoints, tensorboard")


def prepared_run(config: ml_collections.ConfigDict) -> Run:
    """The run of a configuration with what it takes from other workdirs: starting point and teacher.

    Raises:
      UserError: a value out of range, data or a workdir that cannot be read or does not fit.
    """
    run = build_run(config)
    task = with_teacher(config, run.task, run.class_names, run.total_steps)
    return dataclasses.replace(run, task=task, start_from=starting_point(config))
