"""Whether the kernels of this package run on the GPUs of this process."""

import functools
import os
import re

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
    capabilities = [str(getattr(gpu, "compute_capability", "")) for gpu in gpus]
    # AMD has names in their place, "gfx942", and programs that hold no kernel in any case.
    numbers = [float(capability) for capability in capabilities if re.fullmatch(r"\d+\.\d+", capability)]
    return all(number >= LEAST_CAPABILITY for number in numbers)
