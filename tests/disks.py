"""Disks that fail: files that may not grow, and small file systems."""

import contextlib
import resource
import subprocess
from pathlib import Path

import pytest


@contextlib.contextmanager
def file_size_limit(size: int):
    """The kernel refuses files that grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def mounted(path: Path, *options: str):
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting does not work here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
