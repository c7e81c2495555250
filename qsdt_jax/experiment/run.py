"""A configuration -> the run that it describes, with what that takes from other workdirs."""

import dataclasses
from pathlib import Path

import ml_collections

from qsdt_jax.assemble.build import build_run
from qsdt_jax.experiment.sources import START, noted_sources, starting_point
from qsdt_jax.experiment.teachers import TEACHER, find_teacher, taught
from qsdt_jax.train.run import Run


def make_run(config: ml_collections.ConfigDict, workdir: str | Path) -> Run:
    """The run with its starting point and its teacher, where it has them.

    Args:
      config: of the run.
      workdir: of the run, from which is read what it has taken so far; nothing is written.

    Raises:
      UserError: a value out of range, data or a workdir that cannot be read or does not fit, a teacher or a
        starting point that is another by now.
    """
    run, noted = build_run(config), noted_sources(workdir)
    teacher = find_teacher(config, run.task.class_names, (noted or {}).get(TEACHER))
    start, origin = starting_point(config, run.task, noted)
    sources = {TEACHER: teacher and teacher.source, START: origin}
    return dataclasses.replace(
        run,
        task=taught(config, run.task, teacher, run.total_steps),
        start_from=start,
        sources={key: source for key, source in sources.items() if source is not None},
    )
