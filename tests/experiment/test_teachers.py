"""A teacher that does not fit is refused before training starts; one that fits teaches."""

import dataclasses
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from safetensors.numpy import save_file

from qsdt_jax.configuration.checked import check_config
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.sources import sources_now
from qsdt_jax.experiment.teachers import TEACHER, find_teacher, with_teacher
from qsdt_jax.models import SpikingResformer
from qsdt_jax.models.caformer import CAFORMERS
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.distillation import Distillation
from qsdt_jax.tasks.teacher import CAFormerTeacher
from tests.deploy.nets import tiny_net
from tests.interop.test_timm import timm_shapes
from tests.launch.tiny import DIGITS, draw_variables, make_state, tiny_config, write_workdir

STEPS = 100
TASK = Classification(model=tiny_net(in_channels=1), image_shape=(32, 32, 1), class_names=DIGITS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """The workdir of a float network that was trained on the digits at 32x32."""
    config = tiny_config(**{"model.bits": 32, "optimizer.name": "adamw", "ema_decay": 0.0})
    workdir = tmp_path_factory.mktemp("teacher")
    write_workdir(workdir, config, {3: make_state(config, draw_variables(config, 0))})
    return str(workdir)


def student(teacher: str, **overrides) -> ml_collections.ConfigDict:
    return tiny_config(**{"distill.teacher": teacher, "distill.fgd": 0.1, **overrides})


def test_without_a_teacher_the_task_is_as_it_was():
    assert with_teacher(tiny_config(), TASK, STEPS) is TASK


def test_a_teacher_that_fits(teacher, capsys):
    task = with_teacher(student(teacher, **{"distill.kd": 2.0}), TASK, STEPS)
    assert isinstance(task, Distillation)
    backbone = task.teacher.model.backbone
    assert (backbone.bits, str(backbone.dtype)) == (32, "<class 'jax.numpy.bfloat16'>")
    assert (task.weights.fgd, task.weights.kd, task.weights.total_steps) == (0.1, 2.0, STEPS)
    assert len(jax.tree.leaves(task)) == len(jax.tree.leaves(task.teacher_variables)) > 100
    assert "M MACs an image in evaluation; the student has" in capsys.readouterr().err


def test_every_weight_arrives(teacher):
    values = {"fgd": 0.3, "fgd_normalization": "cosine", "fgd_schedule": "cosine"}
    values |= {"labels": 0.7, "kd": 2.0, "kd_target": "hard", "temperature": 3.0}
    overrides = {f"distill.{name}": value for name, value in values.items()}
    task = with_teacher(student(teacher, **overrides), TASK, STEPS)
    assert isinstance(task, Distillation)
    assert dataclasses.asdict(task.weights) == {**values, "total_steps": STEPS}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"data.image_size": (48, 48)}, "has data.image_size=(32, 32); expected (48, 48)"),
        ({"data.mean": (0.5,)}, "has data.mean=(0.31,); expected (0.5,)"),
        ({"data.std": (1.0,)}, "has data.std=(0.35,); expected (1.0,)"),
        ({"data.channels": 3}, "has data.channels=1; expected 3"),
        ({"distill.fgd": 0.0}, "has a teacher, but config.distill.fgd and kd are 0: nothing to learn"),
        ({"distill.fgd": -1.0}, "config.distill.fgd=-1.0 must be at least 0"),
        ({"distill.kd": float("nan")}, "config.distill.kd=nan must be at least 0"),
        ({"distill.temperature": 0.0}, "config.distill.temperature=0.0 must be positive"),
        ({"distill.kd_target": "firm"}, "config.distill.kd_target='firm' is none of soft, hard"),
        (
            {"distill.fgd_normalization": "l2"},
            "config.distill.fgd_normalization='l2' is none of frobenius, cosine",
        ),
        ({"distill.dtype": "int8"}, "config.distill.dtype='int8' is none of float32, bfloat16, float64"),
        ({"distill.teacher": ""}, "config.distill has a weight, but config.distill.teacher names none"),
        (
            {"distill.teacher": "", "distill.fgd": 0.0, "model.distillation_head": True},
            "config.model.distillation_head=True, but config.distill.teacher names no teacher of it",
        ),
        (
            {"model.distillation_head": True},
            "config.model.distillation_head=True, but config.distill.kd=0: nothing would train it",
        ),
        ({"distill.teacher": "/nowhere"}, "workdir /nowhere: no such directory"),
    ],
)
def test_what_is_refused(teacher, overrides, told):
    with pytest.raises(UserError) as caught:
        check_config(config := student(teacher, **overrides))
        with_teacher(config, TASK, STEPS)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_tasks_that_no_teacher_teaches(teacher):
    config = student(teacher)
    with pytest.raises(UserError, match=r"^config\.loss\.each_step=True, but a teacher's loss is"):
        with_teacher(config, dataclasses.replace(TASK, each_step=True), STEPS)
    other = dataclasses.replace(TASK, model=SpikingResformer(in_channels=1, num_classes=10))
    with pytest.raises(UserError, match="this run has a network of its own, SpikingResformer"):
        with_teacher(config, other, STEPS)


@pytest.mark.parametrize("names", [DIGITS[:5], DIGITS[::-1]])
def test_other_classes(teacher, names):
    """Fewer, or in another order."""
    with pytest.raises(UserError, match=r"the training split has .* the teacher in"):
        with_teacher(student(teacher), dataclasses.replace(TASK, class_names=names), STEPS)


# --- CAFormer of timm ---

TINY = {"channels": (4, 8, 32, 64), "depths": (1, 1, 1, 1)}
COLOUR = {"data.channels": 3, "data.mean": (0.5, 0.4, 0.3), "data.std": (0.2,), "distill.dtype": "float32"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    tensors = {name: np.ones(shape, np.float32) for name, shape in timm_shapes(**TINY, classes=10).items()}
    file = tmp_path_factory.mktemp("timm") / "tiny.safetensors"
    save_file(tensors, file)
    return file


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(CAFORMERS, "caformer_tiny", TINY)


@pytest.mark.usefixtures("tiny")
def test_a_file_that_has_moved_is_the_same_source(weights, tmp_path):
    """Of a run that has ended, too."""
    config = student(f"caformer_tiny:{weights}", **COLOUR)
    found = find_teacher(config, DIGITS)
    assert found is not None
    noted = {TEACHER: found.source}
    assert sources_now(config, noted) == noted
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    config.distill.teacher = f"caformer_tiny:{moved}"
    assert sources_now(config, noted)[TEACHER].is_same(found.source)
    moved.write_bytes(b"another")
    assert not sources_now(config, noted)[TEACHER].is_same(found.source)
    moved.unlink()
    assert sources_now(config, noted) == {}


@pytest.mark.usefixtures("tiny")
def test_a_caformer(weights, capsys):
    config = student(f"caformer_tiny:{weights}", **COLOUR)
    task = with_teacher(config, TASK, STEPS)
    assert isinstance(task, Distillation) and isinstance(task.teacher, CAFormerTeacher)
    # A pixel of 0.6, 0.5, 0.4 as the student has it -> as timm's networks have it.
    seen = (np.array([0.6, 0.5, 0.4]) - [0.5, 0.4, 0.3]) / 0.2
    expected = (np.array([0.6, 0.5, 0.4]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen * task.teacher.scale + task.teacher.shift, expected, rtol=1e-12)
    assert len(jax.tree.leaves(task.teacher_variables)) == len(timm_shapes(**TINY, classes=10))
    assert f"teacher: caformer_tiny of {weights}, " in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("teacher", "overrides", "told"),
    [
        (
            "caformer_s19:FILE",
            {},
            "'caformer_s19' is none of caformer_s18, caformer_s36, caformer_m36, caformer_b36",
        ),
        ("caformer_s18:FILE", {}, "does not fit the model; missing ("),
        ("caformer_tiny:/nowhere.safetensors", {}, "/nowhere.safetensors: no such file; expected timm's"),
        ("caformer_tiny:", {}, "is a folder; expected"),
        (
            "caformer_tiny:FILE",
            {"data.channels": 1},
            "caformer_tiny takes images of 3 channels; the data are images of 1 channels",
        ),
        ("caformer_tiny:FILE", {"data.events": True}, "takes images of 3 channels; the data are events"),
        ("caformer_tiny:FILE", {"data.image_size": (16, 32)}, "takes images of at least 32 pixels a side"),
    ],
)
def test_caformers_that_are_refused(weights, teacher, overrides, told):
    config = student(teacher.replace("FILE", str(weights)), **{**COLOUR, **overrides})
    with pytest.raises(UserError) as caught:
        with_teacher(config, TASK, STEPS)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("tiny")
def test_a_caformer_of_other_classes(weights):
    seven = dataclasses.replace(TASK, class_names=DIGITS[:7])
    with pytest.raises(UserError, match=r"has 7 classes, but the teacher in .*tiny\.safetensors has 10"):
        with_teacher(student(f"caformer_tiny:{weights}", **COLOUR), seven, STEPS)
