"""Where a number comes from: versions, commit, hardware."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

import qsdt_jax

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def provenance() -> dict[str, Any]:
    """Versions of this project and its libraries, the commit and the devices of this process."""
    return {**code_version(), "devices": [device.device_kind for device in jax.devices()]}


def code_version() -> dict[str, Any]:
    """Versions of this project and its libraries, and the commit; no device is touched."""
    return {
        "versions": {
            "qsdt_jax": qsdt_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "commit": _commit(),
    }


def _commit() -> str:
    """The checkout's commit, with "+" where files differ from it; "unknown" outside a checkout."""
    folder = Path(qsdt_jax.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
