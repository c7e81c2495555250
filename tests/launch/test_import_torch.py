"""A published file becomes a workdir."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from launch.import_torch import import_torch, read_names
from qsdt_jax.assemble.build import build_run
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.sources import load_start
from qsdt_jax.loading.trained import load_trained, stored_config
from qsdt_jax.models import create_model
from qsdt_jax.models.shapes import variable_shapes
from qsdt_jax.workdir.checkpoint import Checkpointer
from qsdt_jax.workdir.workdir import Workdir
from tests.launch.tiny import DIGITS, draw, draw_variables, launch, resformer_config, tiny_config, write_pth

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "interop" / "data"
CONFIG = tiny_config()
# The published case: the network is here, its images are not.
NO_IMAGES = {"data.source": "folder", "data.path": "/no/such/folder"}


@pytest.fixture(scope="module")
def variables() -> dict:
    return draw_variables(CONFIG, 0)


@pytest.fixture(scope="module")
def pth(variables, tmp_path_factory) -> Path:
    return write_pth(tmp_path_factory.mktemp("pth") / "published.pth", variables)


def refusal(*arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        import_torch(*arguments, **options)
    return str(caught.value)


def read_class_names(workdir: Path) -> list[str]:
    return json.loads((workdir / "data.json").read_text())["class_names"]


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def imported(pth, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("import")
    import_torch(CONFIG, pth, workdir)
    return workdir


def test_the_workdir_gives_back_the_network(imported, variables):
    trained = load_trained(imported, ema=True)
    assert (trained.step, trained.classes.names) == (0, DIGITS)
    assert_same(trained.variables, variables)
    assert trained.config.to_dict() == CONFIG.to_dict()
    assert trained.task.image_shape == (32, 32, 1)


def test_training_starts_from_the_workdir(imported, variables):
    run = build_run(CONFIG)
    with Checkpointer(imported / "checkpoints") as checkpointer:
        found = checkpointer.restore_latest(jax.eval_shape(run.initial_state))
    assert found is not None
    assert found[0] == found[1].step == 0
    assert_same(found[1].variables, variables)
    with Workdir(imported) as workdir:
        # Else it is refused as another run's.
        workdir.require(run.belongings, run.defaults)


def test_a_spikingresformer(tmp_path):
    """With a configuration of it; one of another network is told by both names."""
    config = resformer_config(**{"model.timesteps": 2})
    fields = {**config.resformer, "timesteps": 2, "num_classes": 10, "in_channels": 1}
    model = create_model("spikingresformer_s", **fields)
    variables = draw(variable_shapes(model), 2)
    file = write_pth(tmp_path / "net.pth", variables)
    import_torch(config, file, tmp_path / "w")
    trained = load_trained(tmp_path / "w")
    assert_same(trained.variables, variables)
    assert trained.task.model == model
    config.start_from = str(file)
    assert load_start(config, None)[0].task.model == model  # T is the run's.
    told = "holds a SpikingResformer, but the network described by the configuration is a classifier"
    assert told in refusal(CONFIG, file, tmp_path / "other")
    wider = resformer_config(**{"resformer.channels": (8, 8, 32)})
    assert "of another shape" in refusal(wider, file, tmp_path / "other")


def test_without_the_images_the_head_gives_the_number_of_classes(tmp_path):
    pth = write_pth(tmp_path / "seven.pth", draw_variables(CONFIG, 0, classes=7))
    import_torch(tiny_config(**NO_IMAGES), pth, tmp_path / "w")
    assert read_class_names(tmp_path / "w") is None
    assert load_trained(tmp_path / "w").classes.names is None


def test_wrong_number_of_classes(pth, tmp_path):
    few = refusal(CONFIG, pth, tmp_path / "w", class_names=("a", "b"))
    assert "has 10 classes, but 2 names are given" in few
    fake = tiny_config(**{"data.source": "fake", "data.fake_classes": 7})
    assert f"the data has 7 classes, but {pth} has 10" in refusal(fake, pth, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_file_that_does_not_fit_names_the_tensor(pth, variables, tmp_path):
    wider = tiny_config(**{"model.channels": (8, 8, 16, 32)})
    assert re.search(r"block4\.0\.\S+ expected \(32,\) found \(16,\)", refusal(wider, pth, tmp_path / "w"))
    cut = write_pth(tmp_path / "cut.pth", variables, without="block3.0.layer_scale1")
    assert re.search(r"missing.*: block3\.0\.layer_scale1 \(16,\)", refusal(CONFIG, cut, tmp_path / "w"))
    headless = write_pth(tmp_path / "headless.pth", variables, without="head.weight")
    assert "no tensor head.weight" in refusal(CONFIG, headless, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_workdir_with_checkpoints_is_left_alone(imported, pth):
    before = {file: file.stat().st_mtime_ns for file in imported.rglob("*")}
    assert "holds checkpoints of steps [0]" in refusal(CONFIG, pth, imported)
    assert {file: file.stat().st_mtime_ns for file in imported.rglob("*")} == before


@pytest.mark.parametrize("text", ["", "a\n\nb\n", b"\xff\xfe\x00"])
def test_class_names_that_are_none(tmp_path, text):
    file = tmp_path / "names.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"--class_names .*names\.txt"):
        read_names(str(file))


def test_command_line(pth, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"digit {d}" for d in DIGITS) + "\n")
    changed = ("channels", "depth", "num_heads")
    model = [f"--config.model.{key}={CONFIG.model[key]}" for key in changed]
    files = ["--checkpoint", pth, "--class_names", names, "--workdir", tmp_path / "w"]
    assert launch("import-torch", "--config", ROOT / "configs/digits.py", *model, *files) == 0
    assert read_class_names(tmp_path / "w") == [f"digit {d}" for d in DIGITS]
    assert stored_config(tmp_path / "w").model.to_dict() == CONFIG.model.to_dict()


def test_code_in_the_file_is_never_run(tmp_path):
    command = [sys.executable, "-m", "launch", "import-torch", "--config", "configs/digits.py"]
    command += [f"--workdir={tmp_path / 'w'}", f"--checkpoint={DATA / 'evil.pth'}"]
    evil = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert evil.returncode == 2
    assert evil.stderr.startswith("error: ") and evil.stderr.count("\n") == 1
    assert "posix.system" in evil.stderr
    assert not list(tmp_path.iterdir())
