"""Whether what somebody asks for can fit the memory there is, told before it is tried."""

import os

from qsdt_jax.errors import UserError

GIGABYTE = 1e9


def require_memory(needed: int, what: str) -> None:
    """Refuses what is larger than all memory of this machine and of its accelerators.

    Args:
      needed: bytes, no more than are needed for certain.
      what: needs them.

    Raises:
      UserError: so many are not here.
    """
    held = memory_of_this_machine()
    if needed <= held:  # Without asking JAX, which takes the accelerators.
        return
    held += _memory_of_accelerators()
    if needed > held:
        raise UserError(
            f"{what} would take {needed / GIGABYTE:,.1f} GB; "
            f"this machine has {held / GIGABYTE:,.1f} GB of memory"
        )


def memory_of_this_machine() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_of_device() -> int | None:
    """The most bytes that this process has held at once on its first device; None where that is not told."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def _memory_of_accelerators() -> int:
    """Bytes of all devices that tell; a CPU has none of its own."""
    import jax

    stats = [device.memory_stats() for device in jax.devices() if device.platform != "cpu"]
    return sum(found.get("bytes_limit", 0) for found in stats if found)
