"""A configuration -> the run that it describes, with what that takes from other workdirs."""

import dataclasses

import ml_collections

from launch.build import build_run
from launch.distill import with_teacher
from launch.trained import starting_point
from qsdt_jax.train.loop import Run


def make_run(config: ml_collections.ConfigDict) -> Run:
    """The run with its starting point and its teacher, where it has them.

    Raises:
      UserError: a value out of range, data or a workdir that cannot be read or does not fit.
    """
    run = build_run(config)
    task = with_teacher(config, run.task, run.class_names, run.total_steps)
    return dataclasses.replace(run, task=task, start_from=starting_point(config, run.class_names))
