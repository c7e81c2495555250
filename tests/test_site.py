"""The documentation: its site builds without a warning, what it names exists, and its code runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.__main__ import VERBS
from qsdt_jax.data.sources import DigitsSource
from tests.launch.tiny import launch

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(
    r"`((?:qsdt_jax|tests|configs|docs|launch|benchmarks)/[\w/.]+\.(?:py|md|sh|yaml|png|qsdt))`"
)
START = (ROOT / "docs" / "index.md").read_text()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "reference" / "core" / "index.html").read_text()
    assert "Neuron" in page and "membrane" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_files_that_a_page_names_exist(page):
    named = NAMED.findall(page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_commands_name_verbs_and_configs_that_exist(page):
    for line in re.findall(r"python -m launch ([^\n`]+)", page.read_text()):
        verb = "train" if line.startswith("-") else line.split()[0]
        assert verb in VERBS or not verb.isidentifier(), line
        for config in re.findall(r"--config[= ](configs/[a-z0-9_/]+\.py)", line):
            assert (ROOT / config).is_file(), line


@pytest.mark.slow
def test_the_start_runs(tmp_path, monkeypatch):
    """Each command and each block, with a network that trains in seconds in the place of the digits'."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.repeat(DigitsSource("test")[0]["image"], 3, axis=2)).save("digit.png")
    blocks = FENCED.findall(START.replace('"qsd_s", ', '"qsd_s", channels=(8, 8, 16, 16), '))
    lines = [line for kind, text in blocks if kind == "sh" for line in text.splitlines()]
    prefix, config = "python -m launch ", str(ROOT / "tests/configs/tiny.py")
    commands = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    assert len(commands) == 5
    for command in commands:
        assert launch(*shlex.split(command.replace("configs/digits.py", config))) == 0, command
    names: dict = {}
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
    assert names["logits"].shape == (1, 10)
    assert Path("runs/digits/curves.png").is_file() and Path("model.qsdt").is_file()
