"""Whether the kernels of this package run on the GPUs of this process."""

import functools
import os

import jax

LEAST_CAPABILITY = 8.0  # That of an A100: Triton compiles for no older GPU.


@functools.cache
def kernels_available() -> bool:
    """Not on GPUs before the A100, and nowhere if QSDT_KERNELS=0 in the environment leaves all to XLA.

    A process without a GPU compiles for those of others, and takes them to be new enough.
    """
    if os.environ.get("QSDT_KERNELS", "1") == "0":
        return False
    gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
    return all(
        float(getattr(gpu, "compute_capability", LEAST_CAPABILITY)) >= LEAST_CAPABILITY for gpu in gpus
    )
