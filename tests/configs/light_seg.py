"""The run of `tiny_seg` with a light backbone, for tests of what is the same for any backbone."""

import dataclasses

from ml_collections import ConfigDict

from qsdt_jax.assemble.tasks import TASKS, build_semantic_segmentation
from tests.configs import tiny_seg
from tests.configs.light_backbone import lightened


def get_config() -> ConfigDict:
    config = tiny_seg.get_config()
    config.task.name = "tests.configs.light_seg:TASK"
    return config


TASK = dataclasses.replace(
    TASKS["semantic_segmentation"],
    build=lambda config, names: lightened(build_semantic_segmentation(config, names)),
)
