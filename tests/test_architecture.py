"""The house of the project: what may import what, that everything imports, and that every config builds."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.data import build_preprocess, build_source
from qsdt_jax.models.shapes import variable_shapes

ROOT = Path(__file__).parents[1]
HOUSES = ("qsdt_jax", "launch", "configs")

# What the modules of each part may import of ours, besides their own part.
BESIDE = {"qsdt_jax"}  # Files beside the parts, as errors.py: free for all, and under all.
NETWORK = BESIDE | {"core", "layers", "losses", "detection", "models"}
MAY_IMPORT: dict[str, set[str]] = {
    "qsdt_jax": set(),
    "core": BESIDE,
    "detection": BESIDE,
    "layers": BESIDE | {"core"},
    "losses": BESIDE | {"core", "layers"},
    "models": BESIDE | {"core", "layers", "detection"},
    "data": BESIDE,
    "processes": BESIDE,
    "interop": NETWORK,
    "evaluate": NETWORK | {"data"},
    "tasks": NETWORK | {"data", "evaluate"},
    "workdir": BESIDE | {"data", "processes"},
    "train": NETWORK | {"data", "evaluate", "tasks", "processes", "workdir"},
    "deploy": NETWORK | {"data", "evaluate"},
    "explain": NETWORK | {"deploy", "answers"},
    "energy": NETWORK | {"data", "evaluate", "tasks", "deploy", "explain"},
}
MAY_IMPORT["configuration"] = BESIDE
MAY_IMPORT["answers"] = NETWORK | {"data", "evaluate", "tasks"}
MAY_IMPORT["sheets"] = BESIDE | {"data", "evaluate", "answers", "explain"}
MAY_IMPORT["assemble"] = MAY_IMPORT["train"] | {"train", "configuration", "answers"}
MAY_IMPORT["loading"] = MAY_IMPORT["assemble"] | {"assemble", "interop", "deploy"}
MAY_IMPORT["experiment"] = MAY_IMPORT["loading"] | {"loading"}
MAY_IMPORT["verification"] = MAY_IMPORT["loading"] | {"loading", "energy", "explain"}
MAY_IMPORT["inspect"] = MAY_IMPORT["loading"] | {"loading"}
MAY_IMPORT["configs"] = {"configuration"}  # The defaults, in configs/base.py alone.
MAY_IMPORT["launch"] = set(MAY_IMPORT)


def sources(root: Path) -> dict[str, Path]:
    """The files of the project's modules by name; a package by its own name."""
    files = (file for house in HOUSES for file in sorted((root / house).rglob("*.py")))
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def imports_of(name: str, file: Path, known: Iterable[str]) -> Iterator[str]:
    """Modules of ours that a module imports, anywhere in its file; of other projects nothing."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            # `from package import name` means the module of that name where there is one.
            targets = [t if (t := f"{base}.{alias.name}") in known else base for alias in node.names]
        else:
            continue
        yield from (target for target in targets if target.split(".")[0] in (*HOUSES, "tests"))


def import_graph(root: Path) -> dict[str, set[str]]:
    files = sources(root)
    return {name: set(imports_of(name, file, files)) for name, file in files.items()}


def part(module: str) -> str:
    """Where a module lives: "layers", "launch" ..., or "qsdt_jax" for a file beside the parts."""
    house, *inside = module.split(".")
    return inside[0] if house == "qsdt_jax" and inside and inside[0] in MAY_IMPORT else house


def forbidden(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The arrows that MAY_IMPORT lacks."""
    return [
        f"{importer} imports {imported}"
        for importer, targets in graph.items()
        for imported in sorted(targets)
        if part(imported) not in MAY_IMPORT[part(importer)] | {part(importer)}
    ]


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that import each other in a ring, or nothing."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_every_part_has_its_place_in_the_house():
    assert {file.parent.name for file in (ROOT / "qsdt_jax").glob("*/*.py")} <= MAY_IMPORT.keys()


def test_imports_run_downwards_only():
    assert forbidden(import_graph(ROOT)) == []


def test_only_the_base_of_the_configs_imports_the_library():
    """And of it the defaults alone: a config is plain data."""
    found = {name: targets for name, targets in import_graph(ROOT).items() if part(name) == "configs"}
    assert found.pop("configs.base") == {"qsdt_jax.configuration.defaults"}
    assert [
        name for name, targets in found.items() if {part(target) for target in targets} - {"configs"}
    ] == []


def test_no_modules_import_each_other():
    assert circle(import_graph(ROOT)) == []


def test_the_table_of_the_house_has_no_circle_itself():
    assert circle(MAY_IMPORT) == []


@pytest.mark.parametrize(
    ("module", "line", "arrow"),
    [
        (
            "qsdt_jax/core/lsq.py",
            "import qsdt_jax.layers.lowering",
            "core.lsq imports qsdt_jax.layers.lowering",
        ),
        ("qsdt_jax/layers/mlp.py", "from qsdt_jax.models import SIZES", "layers.mlp imports qsdt_jax.models"),
        ("qsdt_jax/data/images.py", "from ..models import backbone", "data.images imports qsdt_jax.models"),
        ("qsdt_jax/data/images.py", "from qsdt_jax import core", "data.images imports qsdt_jax.core"),
        ("qsdt_jax/deploy/pack.py", "from qsdt_jax.train import state", "deploy.pack imports qsdt_jax.train"),
        (
            "qsdt_jax/evaluate/a.py",
            "def f():\n    import qsdt_jax.train",
            "evaluate.a imports qsdt_jax.train",
        ),
        ("qsdt_jax/train/loop.py", "from launch import flags", "train.loop imports launch.flags"),
        (
            "qsdt_jax/train/loop.py",
            "from qsdt_jax.assemble import build",
            "train.loop imports qsdt_jax.assemble.build",
        ),
        ("qsdt_jax/assemble/build.py", "import configs.base", "assemble.build imports configs.base"),
        ("qsdt_jax/train/loop.py", "import tests.golden", "train.loop imports tests.golden"),
        ("qsdt_jax/errors.py", "import qsdt_jax.core", "errors imports qsdt_jax.core"),
        ("configs/digits.py", "import launch.flags", "configs.digits imports launch.flags"),
        ("configs/digits.py", "import qsdt_jax.errors", "configs.digits imports qsdt_jax.errors"),
        (
            "qsdt_jax/processes/peers.py",
            "from qsdt_jax.train import loop",
            "processes.peers imports qsdt_jax.train",
        ),
        ("launch/train.py", "from tests import golden", "launch.train imports tests"),
    ],
)
def test_upward_arrows_are_found(tmp_path, module, line, arrow):
    """In all the ways of writing an import."""
    for file in (module, "qsdt_jax/core/__init__.py", "qsdt_jax/assemble/build.py", "launch/flags.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    (tmp_path / module).write_text(f"import json\nfrom flax import struct\n{line}\n")
    [found] = forbidden(import_graph(tmp_path))
    assert found.endswith(arrow)


def test_free_and_allowed_imports_are_not_found(tmp_path):
    (tmp_path / "qsdt_jax" / "layers").mkdir(parents=True)
    lines = (
        "import qsdt_jax\nfrom qsdt_jax.errors import UserError\nfrom ..core import lsq\nfrom . import mlp\n"
    )
    (tmp_path / "qsdt_jax" / "layers" / "a.py").write_text(lines)
    found = import_graph(tmp_path)
    assert {"qsdt_jax", "qsdt_jax.errors", "qsdt_jax.core", "qsdt_jax.layers"} == found["qsdt_jax.layers.a"]
    assert forbidden(found) == []


def test_circles_are_found(tmp_path):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "a.py").write_text("def f():\n    from launch import b\n")
    (tmp_path / "launch" / "b.py").write_text("from launch.a import f\n")
    assert sorted(set(circle(import_graph(tmp_path)))) == ["launch.a", "launch.b"]


IMPORT_EACH_ALONE = """
import os, sys
import absl.flags, flax, grain, jax, ml_collections, optax, orbax.checkpoint, PIL.Image  # Slow, and not ours.
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        __import__(module)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{module} cannot be imported first")
"""


@pytest.mark.slow
def test_every_module_can_be_imported_first():
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_EACH_ALONE, *sources(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# Configs


CONFIGS = sorted(
    f"configs.{file.stem}" for file in (ROOT / "configs").glob("*.py") if "def get_config" in file.read_text()
)
# What the others build is a variation of these, or takes longer.
QUICK = ("configs.digits", "configs.imagenet_s")
configs = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CONFIGS]
)


def config_of(name: str) -> ConfigDict:
    """A config with fake examples where it wants some that are not here."""
    config = importlib.import_module(name).get_config().lock()
    if config.data.path or config.data.source in ("folder", "tfds", "ade20k", "coco"):
        config.data.source, config.data.fake_images = "fake", 2 * config.batch_size
    return config


def test_there_are_configs():
    assert {"configs.digits", "configs.imagenet_s"} <= set(CONFIGS)


@configs
def test_config_builds(name):
    """Network, task, data, optimiser and schedule fit each other, as far as no array is needed."""
    config = config_of(name)
    run = build_run(config)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    if config.optimizer.rate_rules:  # They fit tensors of the network alone.
        params = variable_shapes(run.task.model)["params"]
    update = lambda params: run.optimizer.update(params, run.optimizer.init(params), params)[0]  # noqa: E731
    assert jax.tree.map(jnp.shape, jax.eval_shape(update, params)) == jax.tree.map(jnp.shape, params)
    assert 0 < run.schedule(run.total_steps // 2) < 1
    example, preprocess = build_source(config, "test")[0], build_preprocess(config)
    shape = run.task.batch_shapes(1)["image"].shape[1:]
    assert np.shape(preprocess.train(example, np.random.default_rng(0))["image"]) == shape
    if preprocess.buckets is not None:  # Whole images, of which each has its own size.
        shape = (*preprocess.buckets.of(example["image"].shape[:2]).image, *shape[2:])
    assert np.shape(preprocess.evaluate(example)["image"]) == shape


@configs
def test_config_is_a_claim(name):
    """Its header gives a command that names the file, the data, and a result that is measured or quoted."""
    file = ROOT / (name.replace(".", "/") + ".py")
    header = ast.get_docstring(ast.parse(file.read_text())) or ""
    claims = dict(re.findall(r"^(Command|Data|Expected|Result) {2,}(.+)$", header, re.MULTILINE))
    assert f"--config configs/{file.name} " in claims["Command"]
    assert claims["Data"]
    assert claims.get("Expected") or claims.get("Result")
