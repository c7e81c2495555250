"""The run of `tiny_det` with a light backbone, for tests of what is the same for any backbone."""

import dataclasses

from ml_collections import ConfigDict

from qsdt_jax.assemble.tasks import TASKS, build_detection
from tests.configs import tiny_det
from tests.configs.light_backbone import lightened


def get_config() -> ConfigDict:
    config = tiny_det.get_config()
    config.task.name = "tests.configs.light_det:TASK"
    return config


TASK = dataclasses.replace(
    TASKS["detection"], build=lambda config, names: lightened(build_detection(config, names))
)
