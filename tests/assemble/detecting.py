"""A detector that always finds the same in an image, and data whose objects are these."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.answers.objects import OBJECTS
from qsdt_jax.assemble.examples import ANNOTATED
from qsdt_jax.assemble.tasks import TaskFactory
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.sources import FakeAnnotated
from qsdt_jax.tasks.average_precision import AveragePrecision, by_class, found_in, results

NAMES = ("cat", "dog")
IDS = (3, 8)
# What is found: shares of width and height, category and score. The last one is wrong.
BOXES = np.array([[0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 1.2, 0.9], [0, 0, 0.2, 0.3], [0, 0, 0, 0]], np.float32)
CATEGORIES = np.array([0, 1, 0, -1], np.int32)
SCORES = np.array([0.9, 0.6, 0.1, 0], np.float32)
IMAGES = 7


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SameObjects(AveragePrecision):
    """Learns nothing."""

    class_names: tuple[str, ...]

    loss_title = "nothing"

    @property
    def model(self) -> nn.Module:
        return nn.Dense(len(self.class_names))

    def batch_shapes(self, size):
        return {"image": jax.ShapeDtypeStruct((size, 16, 16, 3), jnp.float32)}

    def init(self, key):
        return self.model.init(key, jnp.zeros((1, 3)))

    def loss(self, variables, batch, key, step=0):
        del batch, key, step
        return jnp.sum(variables["params"]["kernel"] ** 2), ({}, {})

    def outputs(self, variables, batch):
        del variables
        images = batch["size"].shape[0]
        sides = jnp.tile(batch["size"][:, ::-1], 2)[:, None].astype(jnp.float32)
        return {
            "boxes": BOXES * sides,
            "score": jnp.tile(SCORES, (images, 1)),
            "category": jnp.tile(CATEGORIES, (images, 1)),
            "mask": jnp.ones((images, len(SCORES), 28, 28)),
        }

    def score(self, outputs, batch):
        return super().score(outputs, {**batch, "own_size": batch["annotation_size"]})


def build(config, class_names):
    del config
    return SameObjects(tuple(class_names))


TASK = TaskFactory(
    build=build,
    metrics=SameObjects.metrics,
    class_count=lambda variables: variables["params"]["kernel"].shape[-1],
    shared=found_in,
    by_class=by_class,
    results=results,
    examples=ANNOTATED,
    answering=OBJECTS,
)


@dataclasses.dataclass(frozen=True)
class Scenes(FakeAnnotated):
    """Images with two objects each."""

    @property
    def class_names(self):
        return NAMES

    def __getitem__(self, index):
        return {**super().__getitem__(index), "index": np.int32(index)}

    @property
    def truth(self):
        sizes = [self.size_of(index) for index in range(self.length)]
        boxes = [np.minimum(BOXES[:2], 1) * np.tile((width, height), 2) for height, width in sizes]
        return {
            "images": [{"id": 50 - i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
            "categories": [{"id": i, "name": name} for i, name in zip(IDS, NAMES, strict=True)],
            "annotations": [
                {
                    "id": 2 * i + k,
                    "image_id": 50 - i,
                    "category_id": IDS[k],
                    "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                }
                for i, of_image in enumerate(boxes)
                for k, (x0, y0, x1, y1) in enumerate(of_image)
            ],
        }


def source(config, split):
    del config, split
    return Scenes(IMAGES, (32, 32, 3), len(NAMES))


def detecting_config():
    """One step, after which all is evaluated."""
    config = base_config()
    config.task.name = "tests.assemble.detecting:TASK"
    config.data.source = "tests.assemble.detecting:source"
    config.data.image_size = (16, 16)
    config.data.short_side, config.data.long_side = 16, 48
    config.data.buckets = ((16, 32), (32, 16), (16, 48), (48, 16))
    config.batch_size, config.steps = 4, 1
    config.eval.batch_size = 2
    config.optimizer.warmup_epochs = 0.0
    return config
