"""The recorded commit is that of this code, or "unknown"."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "qsdt_jax"
FILES = ("__init__.py", "train/__init__.py", "workdir/provenance.py")


def git(folder: Path, *words: str) -> str:
    words = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", *words)
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def committed(folder: Path) -> str:
    git(folder, "init")
    (folder / "notes.txt").write_text("a")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "a")
    return git(folder, "rev-parse", "HEAD")


def installed(folder: Path) -> Path:
    """A copy of what the commit is found with."""
    for name in FILES:
        (folder / "qsdt_jax" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, folder / "qsdt_jax" / name)
    return folder


def commit(folder: Path, **environment: str) -> str:
    command = "from qsdt_jax.workdir.provenance import _commit; print(_commit())"
    path = {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", command],
        cwd=folder.parent,
        env=os.environ | path | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_the_commit_of_a_checkout(tmp_path):
    head = committed(installed(tmp_path))
    assert commit(tmp_path) == head
    (tmp_path / "qsdt_jax/train/__init__.py").write_text("# Changed.\n")
    assert commit(tmp_path) == head + "+"


@pytest.mark.parametrize("place", [".venv/lib/site-packages", "third_party", "."])
def test_a_repository_around_an_installation_is_not_meant(tmp_path, place):
    """Neither where the code is not tracked, nor where it is tracked as part of something else."""
    committed(tmp_path)
    folder = installed(tmp_path / place)
    assert commit(folder) == "unknown"
    if place != ".":
        git(tmp_path, "add", "-f", ".")
        git(tmp_path, "commit", "-m", "b")
        assert commit(folder) == "unknown"


def test_the_repository_of_a_hook_is_not_meant(tmp_path):
    """Though it has files of the same names."""
    committed(installed(tmp_path / "fork"))
    folder = installed(tmp_path / "elsewhere")
    found = commit(folder, GIT_DIR=str(tmp_path / "fork" / ".git"), GIT_WORK_TREE=str(folder))
    assert found == "unknown"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ({"url": "u", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, "abc"),
        ({"url": "file:///x", "dir_info": {}}, "unknown"),
        (None, "unknown"),
    ],
)
def test_the_commit_that_pip_noted(tmp_path, url, expected):
    folder = installed(tmp_path / "site-packages")
    notes = folder / "qsdt_jax-0.1.0.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: qsdt_jax\nVersion: 0.1.0\n")
    if url is not None:
        (notes / "direct_url.json").write_text(json.dumps(url))
    assert commit(folder) == expected
    (folder / "notes").mkdir()
    other = installed(tmp_path / "other")  # The notes are of another copy than the one that runs.
    assert commit(other, PYTHONPATH=f"{other}{os.pathsep}{folder}") == "unknown"
