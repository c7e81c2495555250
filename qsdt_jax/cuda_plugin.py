"""JAX's plug-in for NVIDIA GPUs on a machine without their driver: there it is a compiler and no device."""

import ctypes
import os


def allow_without_driver() -> None:
    """Lets JAX load the plug-in where there is no driver, before it looks for devices.

    JAX would compare the versions of libraries that such a machine may lack, log a traceback, and go on
    without the plug-in. With the plug-in it finds no GPU and takes the CPU without a word, and the compiler
    can be asked. Where there is a driver, the comparison stays.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
