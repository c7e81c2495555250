"""docs/extending.md: its code is run as it stands there, a task that is no classification above all."""

import csv
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.recipe import recipe
from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.core.neurons import fire
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.experiment.run import make_run
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.tasks.task import variable_shapes
from qsdt_jax.workdir.checkpoint import restore_raw
from qsdt_jax.workdir.integrity import leaves_of
from qsdt_jax.workdir.metrics import read_metrics
from tests.launch.tiny import launch

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))
# The digits with a net that compiles fast: 4 epochs of 2 steps, the last batch of an evaluation not full.
SMALL = """
from tests.launch.tiny import tiny_config

def get_config():
    config = tiny_config(**{"epochs": 4, "data.digits_images": 128, "ema_decay": 0.0})
    config.eval.every_epochs, config.checkpoint.every_steps, config.checkpoint.keep_latest = 1.0, 2, 2
    config.optimizer.warmup_steps = 4  # So all runs of 8 steps are one program.
    config.task.name = "digit_value:TASK"
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the page, which can be imported until the end."""
    path = tmp_path_factory.mktemp("own")
    for name, text in {**FILES, "small.py": SMALL}.items():
        (path / name).write_text(text)
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))
    for file in path.glob("*.py"):
        sys.modules.pop(file.stem, None)


@pytest.fixture(scope="module")
def workdir(folder) -> Path:
    """Of a run without interruption."""
    assert launch("--config", folder / "small.py", "--workdir", folder / "run") == 0
    return folder / "run"


def scores(workdir: Path) -> dict[int, dict[str, float]]:
    return {line["step"]: line for line in read_metrics(workdir) if "eval/rmse" in line}


def test_training(workdir):
    """The best checkpoint has the smallest error; nothing of a classification is there."""
    found = {step: line["eval/rmse"] for step, line in scores(workdir).items()}
    assert list(found) == [2, 4, 6, 8] and len(set(found.values())) == 4
    best = min(found, key=lambda step: found[step])
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["best"] == {"eval/rmse": found[best], "step": best}
    assert summary["final"] == {"eval/rmse": found[8]}
    assert best in {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert load_trained(workdir, step="best").step == best
    assert json.loads((workdir / "data.json").read_text())["class_names"] is None
    assert load_trained(workdir).classes is None
    assert (workdir / "curves.png").stat().st_size > 10_000


def test_evaluation(workdir, capsys):
    """The command's numbers are those of training, and those of NumPy on all images at once."""
    capsys.readouterr()
    file = workdir / "eval.json"
    assert launch("eval", "--workdir", workdir, "--json", file) == 0
    assert capsys.readouterr().out.startswith("rmse ")
    found, logged = json.loads(file.read_text()), scores(workdir)[8]
    assert (found["rmse"], found["median"]) == (logged["eval/rmse"], logged["eval/median"])

    trained, source = load_trained(workdir), DigitsSource("test")
    preprocess = build_preprocess(trained.config)
    examples = [preprocess.evaluate(source[i]) for i in range(len(source))]
    batch = {name: np.stack([example[name] for example in examples]) for name in ("image", "label")}
    inputs = to_inputs(batch, preprocess.normalization)
    errors = np.asarray(jax.jit(trained.task.outputs)(trained.variables, inputs)) - batch["label"]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(errors.astype(np.float64) ** 2)), rel=1e-5)
    assert found["median"] == pytest.approx(np.median(np.abs(errors)), rel=1e-5)


def test_a_run_goes_on_bit_for_bit(folder, workdir, tmp_path):
    """From the best checkpoint, or where that is the last from the one before it."""
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    shutil.rmtree(copy / "checkpoints" / "8")
    (copy / "summary.json").unlink()
    assert launch("--config", folder / "small.py", "--workdir", copy) == 0
    (step, expected), (other, found) = (restore_raw(path / "checkpoints") for path in (workdir, copy))
    assert step == other == 8
    leaves, again = leaves_of(expected)[0], leaves_of(found)[0]
    assert leaves.keys() == again.keys() and len(leaves) > 40
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(again[name], leaf, err_msg=name)
    assert scores(copy) == scores(workdir)


def test_a_study(folder, tmp_path):
    study = importlib.import_module("value_study")
    assert study.get_config().task.name == "digit_value:TASK"
    (folder / "small_study.py").write_text(
        f"from small import get_config\nROWS, SEEDS = {study.ROWS!r}, 1\n__all__ = ['get_config']\n"
    )
    words = ["--config", folder / "small_study.py", "--workdir", tmp_path, "--config.eval.every_epochs=4"]
    assert launch("ablate", *words) == 0
    with (tmp_path / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0])[:4] == ["row", "seed", "rmse", "images_per_second"]
    assert [(line["row"], line["seed"], line["failure"]) for line in lines] == [
        ("4-bit weights", "0", ""),
        ("2-bit weights", "0", ""),
    ]
    for line, row in zip(lines, ("4_bit_weights", "2_bit_weights"), strict=True):
        [logged] = scores(tmp_path / "runs" / row / "seed0").values()
        assert float(line["rmse"]) == logged["eval/rmse"]
    table = (tmp_path / "results.md").read_text()
    assert table.startswith("| row | test RMSE, smaller is better | std |")
    assert f"| {float(lines[0]['rmse']):.4g} |" in table


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            {"task.name": "classification"},
            "the task 'classification' is scored by its top-1 (%), larger is better, "
            "the other rows by their RMSE, smaller is better",
        ),
        ({"task.name": 3}, "config.task.name=3 is no name: expected a text"),
        ({"eval.splits": ("train", "test")}, "is scored on another split than the other rows"),
        ({"eval.splits": ()}, "is scored on another split than the other rows"),
    ],
)
def test_a_study_of_two_scores_is_refused(folder, tmp_path, capsys, overrides, told):
    (folder / "mixed.py").write_text(
        f"from small import get_config\nSEEDS, ROWS = 1, [('a', {{}}), ('b', {overrides!r})]\n"
    )
    assert launch("ablate", "--config", folder / "mixed.py", "--workdir", tmp_path / "w") == 2
    assert told in capsys.readouterr().err


PLAIN = """
# A network without batch norm, in a task that names its loss otherwise.
import jax
import jax.numpy as jnp
from flax import linen as nn

from digit_value import DigitValue
from qsdt_jax.assemble.data import input_shape
from qsdt_jax.assemble.tasks import TaskFactory
from qsdt_jax.data.sources import DigitsSource


class Network(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(1)(images.reshape(len(images), -1))


@jax.tree_util.register_static
class Squares(DigitValue):
    def loss(self, variables, batch, key, step=0):
        values = self.model.apply({"params": variables["params"]}, batch["image"])
        loss = jnp.mean((values[:, 0] - batch["label"]) ** 2)
        return loss, ({}, {"mse": loss})


class OtherKeys(DigitsSource):
    def __getitem__(self, index):
        more = {"difficult": index % 2} if self.split == "test" else {}
        return super().__getitem__(index) | more


def source(config, split):
    return OtherKeys(split, images=128 if split == "train" else None)


def build(config, class_names):
    return Squares(Network(), input_shape(config))


TASK = TaskFactory(build=build, metrics=DigitValue.metrics)
OTHER = TaskFactory(build=build, metrics=DigitValue.metrics[::-1])
"""


def test_a_network_without_batch_norm_and_splits_of_other_keys(folder, tmp_path):
    (folder / "plain.py").write_text(PLAIN)
    words = ["--config", folder / "small.py", "--config.task.name=plain:TASK", "--config.epochs=1"]
    more = ["--config.data.source=plain:source", "--config.eval.splits=('test','train')"]
    assert launch(*words, *more, "--workdir", tmp_path) == 0
    lines = read_metrics(tmp_path)
    steps = [line for line in lines if "train/mse" in line]
    assert len(steps) == 2 and all(line["train/loss"] == line["train/mse"] for line in steps)
    assert all({"eval/rmse", "eval_train/rmse"} <= line.keys() for line in lines if "eval/rmse" in line)
    assert scores(tmp_path).keys() == {2}


def test_a_factory_that_names_other_metrics_than_its_task(folder, tmp_path, capsys):
    (folder / "plain.py").write_text(PLAIN)
    words = ["--config", folder / "small.py", "--config.task.name=plain:OTHER", "--workdir", tmp_path / "w"]
    assert launch(*words) == 2
    told = capsys.readouterr().err
    assert "the metrics of its TaskFactory are not those of the task" in told and told.count("\n") == 1


def small(**overrides):
    """The configuration of the runs here."""
    config = importlib.import_module("small").get_config()
    config.update_from_flattened_dict(overrides)
    return config


def test_tables_of_a_run_name_no_classes(folder, capsys):
    assert launch("inspect", "--config", folder / "small.py") == 0
    assert capsys.readouterr().out.startswith("32x32x1 images, 4-bit weights, ")
    lines = [line.split(maxsplit=1) for line in recipe(build_run(small())).splitlines()]
    table = {name: text for name, text in lines if name in ("data", "loss")}
    assert table == {"data": "digits: 128 images at 32x32x1", "loss": "mean squared error"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["predict", "x.png"], "predict shows classes, and the outputs of"),
        (["export", "--out=model.qsdt"], "tells no classes apart, its task being 'digit_value:TASK'"),
        (["energy"], "tells no classes apart"),
        (["merge"], "tells no classes apart"),
    ],
)
def test_commands_of_classes_say_so(workdir, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert launch(words[0], "--workdir", workdir, *words[1:]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error


def test_a_data_source(folder, tmp_path, capsys):
    words = ["--config.data.source=squares:source", "--config.epochs=2", "--config.data.workers=1"]
    assert launch("--config", folder / "small.py", "--workdir", tmp_path, *words) == 0
    assert re.search(r"data +squares:source: 256 images at 32x32x1\n", capsys.readouterr().err)
    assert list(scores(tmp_path)) == [4, 8]
    assert launch("eval", "--workdir", tmp_path, "--split", "train") == 0
    assert capsys.readouterr().out.startswith("rmse ")


def test_a_neuron_and_a_layer(folder, tmp_path, capsys):
    """The neuron fires where the page says; a network of the layer is trained and evaluated."""
    own = importlib.import_module("own_network")
    potentials = jnp.array([0.19, 0.21, 0.5, 0.54, 0.86, 0.88, 9.0])
    spikes = fire(potentials, own.EAGER)
    assert spikes.counts.tolist() == [0, 1, 1, 2, 2, 3, 3] and spikes.step == 1 / 3
    words = ["--config.task.name=own_network:TASK", "--config.epochs=2", "--config.model.bits=2"]
    assert launch("--config", folder / "small.py", "--workdir", tmp_path, *words) == 0
    capsys.readouterr()
    assert launch("eval", "--workdir", tmp_path) == 0
    [logged] = [line for step, line in scores(tmp_path).items() if step == 4]
    assert capsys.readouterr().out.splitlines()[0] == f"rmse {logged['eval/rmse']:.6g}"
    for command in (
        ["information", "--workdir", tmp_path],
        ["inspect", "--config", folder / "small.py", words[0]],
    ):
        assert launch(*command) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "has a network of its own, Network" in told


def test_a_starting_point_of_another_task(workdir, tmp_path, capsys):
    """Everything but the head is taken."""
    run = make_run(small(**{"start_from": str(workdir), "task.name": "classification"}), tmp_path)
    shapes = variable_shapes(run.task)
    assert run.start_from is not None
    taken = run.start_from(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    told = capsys.readouterr().err
    assert "was trained for another task: 'digit_value:TASK', this is 'classification'" in told
    before = load_trained(workdir).variables["params"]
    for name, part in taken["params"].items():
        if name == "head":
            assert part["kernel"].shape[-1] == 10 and not np.any(part["kernel"])
        else:
            jax.tree.map(np.testing.assert_array_equal, part, before[name])
