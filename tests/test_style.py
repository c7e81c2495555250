"""The checks of style and types that every file passes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "check",
    [
        "ruff check --no-cache .",
        "ruff format --no-cache --check .",
        pytest.param(f"pyright --pythonpath {sys.executable}", marks=pytest.mark.slow),
    ],
    ids=["ruff check", "ruff format", "pyright"],
)
def test_the_whole_tree_passes(check):
    done = subprocess.run(
        [sys.executable, "-m", *check.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
