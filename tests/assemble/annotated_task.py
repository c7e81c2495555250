"""A small task on images with annotations: a class for each pixel from its colour alone."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from qsdt_jax.assemble.examples import ANNOTATED
from qsdt_jax.assemble.tasks import TaskFactory
from qsdt_jax.data.sources import FakeAnnotated
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.metric import Metric


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PixelColours:
    """Its score counts what evaluation has shown it, so that tests can count too."""

    class_names: tuple[str, ...]
    channels: int

    metrics = (
        Metric("labelled", "labelled pixels", larger_is_better=True),
        Metric("images", "images", larger_is_better=True),
        Metric("shown", "sum of the inputs", larger_is_better=True),
        Metric("largest", "pixels of the largest image", larger_is_better=True),
    )
    loss_title = "cross-entropy of the pixels"

    @property
    def model(self) -> nn.Module:
        return nn.Dense(len(self.class_names))

    def batch_shapes(self, size):
        return {"image": jax.ShapeDtypeStruct((size, 16, 16, self.channels), jnp.float32)}

    def init(self, key):
        return self.model.init(key, jnp.zeros((1, 16, 16, self.channels)))

    def loss(self, variables, batch, key, step=0):
        del key, step
        classes = len(self.class_names)
        labelled = batch["annotation"] < classes
        losses = optax.softmax_cross_entropy_with_integer_labels(
            self.model.apply(variables, batch["image"]), jnp.minimum(batch["annotation"], classes - 1)
        )
        return jnp.mean(jnp.where(labelled, losses, 0)), ({}, {})

    def outputs(self, variables, batch):
        return self.model.apply(variables, batch["image"])

    def score(self, outputs, batch):
        mask = batch["mask"]
        assert outputs.shape[:3] == batch["image"].shape[:3]
        labelled = jnp.sum(batch["annotation"] < len(self.class_names), axis=(1, 2))
        return Scored(
            sums={
                "labelled": jnp.sum(mask * labelled),
                "images": jnp.sum(mask),
                "shown": jnp.sum(mask * jnp.sum(batch["image"], axis=(1, 2, 3))),
            },
            rows={"pixels": jnp.prod(batch["size"], axis=1)},
        )

    def summarize(self, total, truth):
        del truth
        sums = {name: float(value) for name, value in total.sums.items()}
        assert len(total.rows["pixels"]) == sums["images"]
        return {**sums, "largest": float(total.rows["pixels"].max())}


def build(config, class_names):
    return PixelColours(tuple(class_names), config.data.channels)


TASK = TaskFactory(build=build, metrics=PixelColours.metrics, examples=ANNOTATED)


def source(config, split):
    """Images with annotations, whatever the task."""
    del split
    return FakeAnnotated(config.batch_size, (32, 32, 3), 3)
