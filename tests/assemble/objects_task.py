"""A small task on images with objects: their number from the mean colour of the image."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from qsdt_jax.assemble.examples import OBJECTS
from qsdt_jax.assemble.tasks import TaskFactory
from qsdt_jax.metric import Metric


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NumberOfObjects:
    class_names: tuple[str, ...]
    channels: int

    metrics = (Metric("loss", "loss", larger_is_better=False),)
    loss_title = "squared distance"

    @property
    def model(self) -> nn.Module:
        return nn.Dense(1)

    def batch_shapes(self, size):
        return {"image": jax.ShapeDtypeStruct((size, 16, 32, self.channels), jnp.float32)}

    def init(self, key):
        return self.model.init(key, jnp.zeros((1, self.channels)))

    def loss(self, variables, batch, key, step=0):
        del key, step
        found = self.model.apply(variables, batch["image"].mean((1, 2)))[:, 0]
        return jnp.mean((found - jnp.sum(batch["category"] >= 0, axis=1)) ** 2), ({}, {})


def build(config, class_names):
    return NumberOfObjects(tuple(class_names), config.data.channels)


TASK = TaskFactory(build=build, metrics=NumberOfObjects.metrics, examples=OBJECTS)
