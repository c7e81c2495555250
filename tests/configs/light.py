"""The run of `tiny` with a network of one block, for tests of what is the same for any network."""

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from qsdt_jax.assemble.shapes import input_shape
from qsdt_jax.assemble.tasks import TaskFactory
from qsdt_jax.tasks.classification import Classification
from tests.configs import tiny
from tests.train.spread import Net


class Light(nn.Module):
    """The net of `tests.train.spread` on the mean of the time steps."""

    num_classes: int
    drop_path: float

    @nn.compact
    def __call__(self, images, train: bool = False):
        image = jnp.mean(images, 1) if images.ndim == 5 else images
        return Net(0, self.drop_path, self.num_classes, jnp.float32, name="net")(image, train)


def get_config() -> ConfigDict:
    config = tiny.get_config()
    config.task.name = "tests.configs.light:TASK"
    return config


def build(config: ConfigDict, class_names: tuple[str, ...]) -> Classification:
    return Classification(
        model=Light(len(class_names), config.model.drop_path),
        image_shape=input_shape(config),
        class_names=tuple(class_names),
        label_smoothing=config.loss.label_smoothing,
        mixup_alpha=config.data.mixup,
        cutmix_alpha=config.data.cutmix,
    )


TASK = TaskFactory(
    build=build,
    metrics=Classification.metrics,
    class_count=lambda variables: variables["params"]["net"]["QDense_0"]["kernel"].shape[-1],
)
