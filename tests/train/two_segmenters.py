"""A step of a segmentation on one device and spread over two; `python -m tests.train.two_segmenters FILE`.

A process of its own, because the number of devices is fixed before the first of them is used.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.models import Backbone, Segmenter
from qsdt_jax.tasks.semantic import SemanticSegmentation
from qsdt_jax.train.optimizer import adamw
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.step import initial_state, train_step
from qsdt_jax.workdir.integrity import host_leaves

BATCH, CLASSES = 4, 3


@jax.tree_util.register_static
class Shaken(SemanticSegmentation):
    """Starts with random biases, so that no channel lies exactly on the edge of a surrogate gradient."""

    def init(self, key):
        def shaken(path, leaf):
            return leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype) * (path[-1].key == "bias")

        return jax.tree_util.tree_map_with_path(shaken, super().init(key))


def trained(parallel: Parallel) -> dict[str, np.ndarray]:
    """All of the state after a step, and the metrics."""
    backbone = Backbone(
        channels=(4, 4, 8, 8),
        depth=2,
        num_heads=2,
        mlp_ratio=1,
        attention_tokens=4,
        layer_scale_init=0.5,
        dtype=jnp.float64,
        param_dtype=jnp.float64,
    )
    task = Shaken(
        model=Segmenter(backbone, CLASSES, fpn_channels=4),
        image_shape=(32, 32, 3),
        class_names=tuple("abc"),
        average="labelled",
    )
    optimizer = adamw(1e-2)

    def step(state, batch, task, seed):
        shards = parallel.shards_in_step
        return train_step(state, batch, task=task, seed=seed, optimizer=optimizer, shards=shards)

    state = parallel.jit_initial(functools.partial(initial_state, task, optimizer))()
    generator = np.random.default_rng(0)
    annotation = generator.integers(0, CLASSES, (BATCH, 32, 32)).astype(np.uint8)
    annotation[:2, 5:] = 255  # The first device has far fewer labelled pixels, and padding.
    batch = {
        "image": generator.standard_normal((BATCH, 32, 32, 3)),
        "size": np.array([[32, 32], [9, 20], [32, 17], [32, 32]], np.int32),
        "annotation": annotation,
    }
    rows = parallel.rows(BATCH)
    update = parallel.train_step(step, state)
    state, metrics = update(state, parallel.place(jax.tree.map(lambda x: x[rows], batch)), task, 0)
    return host_leaves(state) | {f"metric/{name}": np.asarray(value) for name, value in metrics.items()}


def main(file: str) -> None:
    """Stores "WAY:NAME" of "one" and "pmap"."""
    ways = {
        "one": Parallel(devices=(jax.devices()[0],)),
        "pmap": Parallel(mode="pmap"),
    }
    assert len(jax.devices()) == 2
    np.savez(file, **{f"{way}:{k}": v for way, p in ways.items() for k, v in trained(p).items()})


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    main(sys.argv[1])
