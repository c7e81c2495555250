"""The wheel: what is in it, that it says what it needs, and that it works where nothing else is installed."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import qsdt_jax
from launch.surroundings import EXTRAS
from launch.workers import PROGRAM
from tests.launch.tiny import draw_variables, write_pth
from tests.loading.conftest import CONFIG

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IN_REQUIREMENTS = ("data", "plots", "stablehlo")
# Distributions whose modules have other names.
MODULES = {"orbax-checkpoint": "orbax", "absl-py": "absl", "pillow": "PIL", "scikit-learn": "sklearn"}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=; ]", requirement)[0]


def modules_of(requirements) -> set[str]:
    return {MODULES.get(name_of(r), name_of(r).replace("-", "_")) for r in requirements}


def test_requirements_are_those_of_the_project():
    """requirements.txt is what pip takes in a checkout; pyproject.toml decides."""
    lines = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    wanted = PROJECT["dependencies"] + [
        r for e in IN_REQUIREMENTS for r in PROJECT["optional-dependencies"][e]
    ]
    assert lines == wanted


def test_the_tests_install_the_other_extras():
    extras = PROJECT["optional-dependencies"]
    wanted = {r for name in extras.keys() - set(IN_REQUIREMENTS) for r in extras[name]}
    assert wanted - set((ROOT / "tests" / "requirements.txt").read_text().splitlines()) == set()


def test_errors_name_the_extra_that_brings_a_package():
    extras = {
        module: extra
        for extra, requirements in PROJECT["optional-dependencies"].items()
        if extra not in ("gpu-compile", "docs")  # Which nothing here imports.
        for module in modules_of(requirements)
    }
    assert extras == EXTRAS


def test_every_import_is_declared():
    declared = modules_of(PROJECT["dependencies"]) | set(EXTRAS)
    imported = set()
    for folder in ("qsdt_jax", "launch", "configs"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.split(".")[0])
    ours = {"qsdt_jax", "launch", "configs"}
    # Of jax, and torch only where `bench --beside torch` has found it.
    beside = {"jaxlib", "benchmarks", "torch"}
    assert imported - set(sys.stdlib_module_names) - ours - beside <= declared


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {qsdt_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"{qsdt_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    tools = folder / "tools"
    run(sys.executable, "-m", "venv", tools)
    run(tools / "bin/pip", "install", "-q", "build")
    run(tools / "bin/python", "-m", "build", "-o", folder, ROOT)
    return folder


def run(*command: object, **fields) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **fields)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(folder: str) -> set[str]:
    return {str(f.relative_to(ROOT)) for f in (ROOT / folder).rglob("*") if f.is_file() and f.suffix == ".py"}


@pytest.mark.slow
def test_the_wheel_installs_one_name(built):
    [wheel] = built.glob("*.whl")
    assert qsdt_jax.__version__ in wheel.name
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    moved = {f"qsdt_jax/_command/{name}" for f in ("launch", "configs") for name in files_of(f)}
    assert {n for n in names if n.endswith(".py")} == files_of("qsdt_jax") | moved
    assert {"qsdt_jax/py.typed", "qsdt_jax/energy/profiles/horowitz_widths.toml"} <= names


@pytest.mark.slow
def test_the_source_distribution_has_what_the_tests_need(built):
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for folder in ("qsdt_jax", "launch", "configs", "tests", "benchmarks"):
        assert files_of(folder) <= names
    assert {"LICENSE", "README.md", "CHANGELOG.md", "requirements.txt", "tests/requirements.txt"} <= names
    assert "notebooks/digits.ipynb" in names


LIBRARY = """
import sys
import jax, numpy as np
import qsdt_jax
from qsdt_jax.models import create_model, init_variables

model = create_model("qsd_s", num_classes=10, channels=(8, 16, 16, 24))
images = np.zeros((1, 32, 32, 3), np.float32)
logits = jax.jit(model.apply)(init_variables(model), images)
assert logits.shape == (1, 10)
network = qsdt_jax.load(sys.argv[1])
assert network.predict(np.zeros((2, 8, 8, 1), np.uint8)).logits.shape == (2, 10)
"""


@pytest.mark.slow
def test_it_works_where_nothing_else_is_installed(built, tmp_path):
    """As a library, and as a command that says what else a training needs."""
    [wheel] = built.glob("*.whl")
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/pip", "install", "-q", wheel)
    alone = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}}
    checkpoint = write_pth(tmp_path / "net.pth", draw_variables(CONFIG, 1))
    run(venv / "bin/python", "-c", LIBRARY, checkpoint, **alone)
    for words in (), ("predict",), ("prepare",):
        told = run(venv / "bin/qsdt", *words, "--help", **alone)
        assert "qsdt " in told and "python -m launch" not in told
    assert "inspect" in run(venv / "bin/python", *PROGRAM[1:], "--help", **alone)  # Workers of a study.
    told = run(venv / "bin/qsdt", "inspect", "--config", "digits", **alone)
    assert "parameters" in told
    refused = subprocess.run(
        [venv / "bin/qsdt", "--config", "digits", "--workdir", "run"], capture_output=True, text=True, **alone
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "error: the package sklearn is not installed here: pip install scikit-learn, "
        "or this project with its extra `data`"
    )
