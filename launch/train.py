"""train a network, evaluate it, and go on where the workdir stands when run again."""

import dataclasses

import jax
from absl import flags

from launch.build import build_run
from launch.flags import define_config
from launch.trained import starting_point
from qsdt_jax.errors import UserError
from qsdt_jax.train.loop import train

CONFIG = define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "directory for checkpoints, metrics and pictures")


def main() -> None:
    """Trains as the flags say and prints the result."""
    if CONFIG.value is None or not WORKDIR.value:
        raise UserError("train needs --config FILE and --workdir DIR")
    if CONFIG.value.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    run = dataclasses.replace(build_run(CONFIG.value), start_from=starting_point(CONFIG.value))
    summary = train(run, WORKDIR.value)
    final, best = summary["final"], summary["best"]
    for name, value in final.items():
        print(f"{name} {value:.2f} (best {best[name]:.2f} at step {best['step']})")
    print(f"{WORKDIR.value}: summary.json, metrics.jsonl, curves.png, checkpoints, tensorboard")
