"""The train step of the ADE20K recipe for four H100s, on a machine without a GPU; how to run: `test_h100`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs.ade20k_s import get_config
from qsdt_jax.assemble.build import build_optimizer, build_schedule
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.train.step import initial_state, train_step
from tests.layers.test_h100 import H100, convolutions

CARDS = 4


@pytest.mark.slow
def test_the_step_of_the_recipe_compiles():
    """A narrower and shallower network on smaller crops; all else, the float neck and head too, as it is."""
    config = get_config()
    config.model.channels, config.model.depth, config.model.fpn_channels = (16, 32, 32, 32), 2, 16
    config.model.remat = "blocks"
    config.data.image_size = (64, 64)
    task = build_task(config, numbers(150))
    step = functools.partial(
        train_step,
        task=task,
        optimizer=build_optimizer(config, build_schedule(config, 1010, 160_000)),
        normalization=build_preprocess(config).normalization,
    )
    state = jax.eval_shape(functools.partial(initial_state, task, step.keywords["optimizer"]))
    batch = task.batch_shapes(config.batch_size)
    batch["image"] = jax.ShapeDtypeStruct(batch["image"].shape, jnp.uint8)
    topology = topologies.get_topology_desc("H100", "cuda", target_config=H100, topology=f"{CARDS}x1x1")
    mesh = Mesh(np.array(topology.devices).reshape(CARDS), ("data",))

    def put(tree, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    compiled = jax.jit(step, donate_argnums=0).lower(put(state), put(batch, "data")).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and 0 < memory.temp_size_in_bytes < 2e9
    types = set(convolutions(compiled.as_text() or ""))
    # Spikes with integer weights; real operands, those of the float neck and head among them, as bfloat16.
    assert types <= {("s8", "s8", "f32"), ("bf16", "bf16", "bf16")} and len(types) == 2
