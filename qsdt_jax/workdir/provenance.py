"""Where a number comes from: versions, commit, hardware."""

import importlib.metadata
import json
import os
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
    """The commit of this code, with "+" where files differ from it; "unknown" where nobody knows it.

    A repository around an installation says nothing about the code in it: only this project's own checkout
    counts, or what pip noted when it installed from a repository.
    """
    file = Path(qsdt_jax.__file__).resolve()
    top = file.parents[1]
    # Set in the hooks of another repository, these would lead there.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=top, env=environment, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() == top:
            git("ls-files", "--error-unmatch", str(file.relative_to(top)))  # Fails where it is not tracked.
            return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        pass
    return _installed_commit(file)


def _installed_commit(file: Path) -> str:
    """The commit that pip installed the package from, by PEP 610; "unknown" where it was none."""
    try:
        installed = importlib.metadata.distribution("qsdt_jax")
        if Path(str(installed.locate_file("qsdt_jax/__init__.py"))).resolve() != file:
            return "unknown"  # Another copy than the one that runs.
        return json.loads(installed.read_text("direct_url.json") or "{}")["vcs_info"]["commit_id"]
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return "unknown"
