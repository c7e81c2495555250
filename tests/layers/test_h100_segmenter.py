"""The train step of the ADE20K recipe for four H100s, on a machine without a GPU."""

import functools

import jax
import pytest

from configs.ade20k_s import get_config
from qsdt_jax.assemble.build import build_optimizer, build_parallel, build_schedule
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.inspect.gpu_compiler import devices_of
from qsdt_jax.inspect.lowered import as_bytes, lowered_train_step
from qsdt_jax.inspect.targets import H100
from qsdt_jax.train.step import initial_state, train_step
from tests.layers.test_h100 import convolutions, needs_compiler

CARDS = 4
pytestmark = needs_compiler


@pytest.mark.slow
def test_the_step_of_the_recipe_compiles():
    """A narrower and shallower network on smaller crops; all else, the float neck and head too, as it is."""
    config = get_config()
    config.model.channels, config.model.depth, config.model.fpn_channels = (16, 32, 32, 32), 2, 16
    config.model.remat = "blocks"
    config.data.image_size = (64, 64)
    task, normalization = build_task(config, numbers(150)), build_preprocess(config).normalization
    step = functools.partial(
        train_step,
        task=task,
        optimizer=build_optimizer(config, build_schedule(config, 1010, 160_000)),
        normalization=normalization,
    )
    state = jax.eval_shape(functools.partial(initial_state, task, step.keywords["optimizer"]))
    batch = task.batch_shapes(config.batch_size)
    parallel = build_parallel(config, devices_of(H100, CARDS))
    compiled = lowered_train_step(step, state, as_bytes(batch, normalization), parallel).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and 0 < memory.temp_size_in_bytes < 2e9
    # Of spikes, and of real operands, those of the float neck and head among them.
    assert set(convolutions(compiled.as_text() or "")) == {("bf16", "bf16", "bf16")}
