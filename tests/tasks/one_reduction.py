"""Collectives of the score of a segmentation over two forced devices; `python -m tests.tasks.one_reduction`.

A process of its own, because the number of devices is fixed before the first of them is used.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.tasks.mean_iou import MeanIoU
from qsdt_jax.train.parallel import Parallel


def main() -> None:
    """Prints the compiled program's collectives, and whether its counts are those of one device."""
    generator = np.random.default_rng(0)
    batch = {
        "outputs": generator.standard_normal((4, 8, 12, 3)).astype(np.float32),
        "annotation": generator.integers(0, 4, (4, 32, 48)).astype(np.uint8),
        "size": np.array([[16, 24], [13, 21], [16, 20], [9, 24]], np.int32),
        "annotation_size": np.array([[30, 45], [13, 21], [32, 40], [17, 48]], np.int32),
        "mask": np.array([1, 1, 1, 0], np.int32),
    }

    def score(batch):
        return MeanIoU().score(batch["outputs"], batch).sums["confusion"]

    parallel = Parallel()
    spread = jax.jit(score, out_shardings=parallel.everywhere)
    placed = parallel.place(batch)
    names = re.findall(
        r" (all-\w+|collective-permute|reduce-scatter)\(", spread.lower(placed).compile().as_text()
    )
    same = bool(jnp.all(np.asarray(spread(placed)) == np.asarray(jax.jit(score)(batch))))
    print(json.dumps({"devices": len(parallel.devices), "collectives": names, "same": same}))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    main()
