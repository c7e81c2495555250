"""The loss of a segmentation on one device and spread over two; `python -m tests.losses.two_devices FILE`.

A process of its own, because the number of devices is fixed before the first of them is used.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.devices import AXIS, mean_over_devices
from qsdt_jax.losses.segmentation import Average, pixel_cross_entropy

AVERAGES: tuple[Average, ...] = ("all", "labelled")


def main(file: str) -> None:
    """Stores "AVERAGE/WAY/value" and "AVERAGE/WAY/gradient" by a factor of each class, on "one" and "two"."""
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((4, 8, 3, 5))
    labels = generator.integers(0, 6, (4, 16, 6)).astype(np.uint8)
    labels[:2, 3:] = 255  # The first device has far fewer labelled pixels.
    factors, found = np.ones(5), {}
    for average in AVERAGES:

        def step(factors, logits, labels, average=average):
            """As the train step: the mean over the devices of what each of them computes."""
            loss = jax.value_and_grad(lambda f: pixel_cross_entropy(f * logits, labels, average))
            return mean_over_devices(loss(factors))

        spread = jax.pmap(step, AXIS, in_axes=(None, 0, 0), out_axes=None)
        halves = (x.reshape(2, 2, *x.shape[1:]) for x in (logits, labels))
        for way, (value, gradient) in {
            "one": jax.jit(step)(factors, jnp.asarray(logits), labels),
            "two": spread(factors, *halves),
        }.items():
            found |= {f"{average}/{way}/value": value, f"{average}/{way}/gradient": gradient}
    np.savez(file, **found)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    main(sys.argv[1])
