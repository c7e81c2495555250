"""Published detectors and classifiers by their files: imported, opened, and started from."""

import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import qsdt_jax
from configs import coco_s
from qsdt_jax.answers.objects import OBJECTS
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.run import make_run
from qsdt_jax.experiment.sources import sources_now
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.models import MaskRCNN
from qsdt_jax.tasks.task import variable_shapes
from tests.launch.tiny import draw, launch, write_pth

CLASSES = 3
SIZES = {
    "model.channels": (8, 8, 16, 16),
    "model.depth": 2,
    "model.num_heads": 2,
    "model.mlp_ratio": 1,
    "model.fpn_channels": 8,
    "model.box_features": 16,
}
DATA = {"data.source": "fake", "data.fake_images": 12, "data.fake_classes": CLASSES, "data.workers": 0}


def detector(variant: str = "published", **overrides) -> ConfigDict:
    config = coco_s.get_config(variant)
    config.update_from_flattened_dict({**SIZES, **DATA, **overrides})
    return config


def drawn(config: ConfigDict, seed: int) -> dict:
    return draw(variable_shapes(build_task(config, numbers(CLASSES))), seed)


@pytest.fixture(scope="module")
def variables() -> dict:
    return drawn(detector(), 3)


@pytest.fixture(scope="module")
def pth(variables, tmp_path_factory) -> Path:
    path = write_pth(tmp_path_factory.mktemp("pth") / "detector.pth", variables)
    with zipfile.ZipFile(path) as archive:
        assert b"roi_head.mask_head.conv_logits.1.0.weight" in archive.read("made/data.pkl")
    return path


@pytest.fixture(scope="module")
def classifier() -> dict:
    return drawn(detector(**{"task.name": "classification", "model.bits_rules": ()}), 4)


def assert_same(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_workdir_is_made_of_it(pth, variables, tmp_path, capsys):
    """By the command of the documents; the images of COCO are not here."""
    words = ["--config", "configs/coco_s.py:published", "--config.data.path=/no/such/folder"]
    words += [f"--config.{key}={value}" for key, value in SIZES.items()]
    assert launch("import-torch", *words, "--checkpoint", pth, "--workdir", tmp_path / "run") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'run'}: step 0 with")  # And nothing differs.
    trained = load_trained(tmp_path / "run")
    assert_same(trained.variables, variables)
    assert trained.task.class_names == numbers(CLASSES)

    words[1] = "configs/coco_s.py"
    assert launch("import-torch", *words, "--checkpoint", pth, "--workdir", tmp_path / "paper") == 0
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("neck.fpn_convs.3 (det_fpn/output3 here): trained with stride 1")
    assert "model.neuron_input_gain=0.25, here it is 1.0" in second


def test_it_is_opened_as_it_is(pth, variables):
    network = qsdt_jax.load(pth, num_heads=2)
    model = network.model
    assert isinstance(model, MaskRCNN)
    assert (model.num_classes, model.fpn_channels, model.box_features) == (CLASSES, 8, 16)
    assert (model.geometry, model.neuron_input_gain, model.final_neuron) == ("published", 0.25, False)
    backbone = model.backbone
    assert (backbone.channels, backbone.depth, backbone.mlp_ratio) == ((8, 8, 16, 16), 2, 1)
    assert backbone.attention_tokens == 0 and not backbone.freeze_statistics
    assert_same(network.variables, variables)
    assert network.preprocess.buckets is not None and network.preprocess.buckets.short_side == 800
    assert network.answering == OBJECTS
    assert qsdt_jax.load(pth, num_heads=2, geometry="true").model.geometry == "true"


def test_a_file_without_one_of_its_heads_is_told(variables, tmp_path):
    lacking = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "box_head"}}
    path = write_pth(tmp_path / "lacking.pth", lacking)
    with pytest.raises(UserError, match=r"no tensor roi_head\.bbox_head\.shared_fcs\.0\.1\.0\.weight"):
        qsdt_jax.load(path, num_heads=2)


def started(config: ConfigDict, workdir: Path) -> tuple[dict, dict]:
    """The variables before and after the start of a run."""
    run = make_run(config, workdir)
    assert run.start_from is not None
    fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), variable_shapes(run.task))
    return fresh, run.start_from(fresh)


def test_a_run_starts_from_a_detector(pth, variables, tmp_path, capsys):
    """Heads and all, as its categories are as many; what the paper's network does otherwise is told."""
    _, taken = started(detector(start_from=str(pth)), tmp_path / "run")
    assert_same(taken, variables)
    told = capsys.readouterr().err
    assert f"starting from {pth}" in told and "starts anew" not in told and "stride" not in told
    _, taken = started(detector("", start_from=str(pth)), tmp_path / "run")
    assert_same(taken, variables)
    told = capsys.readouterr().err
    assert "config.model.attention_tokens=196, but the attention" in told
    assert "det_fpn/output3 here" in told and "model.neuron_input_gain=0.25" in told


def test_a_run_of_other_categories_takes_all_but_their_layers(pth, variables, tmp_path, capsys):
    config = detector(**{"start_from": str(pth), "data.fake_classes": 5})
    fresh, taken = started(config, tmp_path / "run")
    of_classes = {"box_head": ("class", "box"), "mask_head": ("classifier",)}
    for part, layers in of_classes.items():
        for layer in layers:
            assert_same(taken["params"][part].pop(layer), fresh["params"][part][layer])
    told = capsys.readouterr().err
    assert told.count("starts anew") == 6 and "params/mask_head/classifier/kernel: starts anew" in told
    for part, layers in of_classes.items():
        kept = {name: x for name, x in variables["params"][part].items() if name not in layers}
        assert_same(taken["params"][part], kept)
    assert_same(taken["params"]["rpn"], variables["params"]["rpn"])


def test_a_run_starts_from_a_classifier(classifier, tmp_path, capsys):
    path = write_pth(tmp_path / "classifier.pth", classifier)
    fresh, taken = started(detector("", start_from=str(path)), tmp_path / "run")
    beside = ("det_fpn", "rpn", "box_head", "mask_head")
    for collection in ("params", "batch_stats"):
        for part, tensors in taken[collection].items():
            assert_same(tensors, (fresh if part in beside else classifier)[collection][part])
    told = capsys.readouterr().err
    assert "was trained for another task: 'classification', this is 'detection'" in told
    assert "params/head/kernel: left out" in told and "params/rpn/score/kernel: starts anew" in told
    assert "attention_tokens" not in told and "geometry" not in told


def test_the_file_stays_the_one_that_a_run_began_with(pth, tmp_path):
    """Wherever it lies."""
    moved = Path(shutil.copy(pth, tmp_path / "moved.pth"))
    config = detector(start_from=str(pth))
    noted = make_run(config, tmp_path / "run").sources
    config.start_from = str(moved)
    assert sources_now(config, noted)["start_from"].is_same(noted["start_from"])
    moved.write_bytes(b"another")
    assert not sources_now(config, noted)["start_from"].is_same(noted["start_from"])
    with pytest.raises(UserError, match=r"^config\.start_from=.*moved\.pth: "):
        make_run(config, tmp_path / "run")
