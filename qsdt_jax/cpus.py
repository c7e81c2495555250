"""How many CPUs this process may use."""

import os


def usable_cpus() -> int:
    """At least 1; where a scheduler has bound the process to some of the machine's, only those count."""
    if hasattr(os, "sched_getaffinity"):  # Not on macOS.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
