"""A tiny segmenter with drawn weights, in a workdir."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.workdir.checkpoint import Checkpointer
from tests.configs.tiny_seg import get_config
from tests.launch.tiny import draw, make_state, write_data

NAMES = ("floor", "sky", "tree")
CONFIG = get_config()
CONFIG.data.buckets = ((32, 48), (48, 32), (48, 64))
CONFIG.data.short_side, CONFIG.data.long_side = 32, 64


def draw_workdir(workdir: Path) -> Path:
    """The workdir of a run that was stopped at once."""
    task = build_task(CONFIG, NAMES)
    variables = draw(jax.eval_shape(task.init, jax.random.key(0)), 1)
    # Classes of about one size, or most pixels would be of one.
    variables["params"]["seg_head"]["classifier"]["bias"] = np.zeros(len(NAMES), np.float32)
    (workdir / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    write_data(workdir, NAMES)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        state = make_state(CONFIG, variables)
        checkpointer.save(0, state.replace(step=jnp.int32(0)))
    return workdir
