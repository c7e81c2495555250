"""Explanations of image files: a picture each, and the same predictions as without them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.answers.classes import CLASSES
from qsdt_jax.answers.pictures import show
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.deploy.bundle import write_bundle
from qsdt_jax.loading.deployed import bundle_of, load_deployed
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.tasks.task import variable_shapes
from qsdt_jax.verification.explained import explainer
from tests.launch.tiny import (
    DIGITS,
    draw,
    launch,
    make_state,
    resformer_config,
    tiny_config,
    write_workdir,
)
from tests.loading.segmenting import draw_workdir

FLOAT = {"model.neuron": "relu", "model.bits": 32, "model.attention": "softmax"}


def write(workdir: Path, config) -> Path:
    workdir.mkdir()
    variables = draw(variable_shapes(build_task(config, DIGITS)), 1)
    return write_workdir(workdir, config, {0: make_state(config, variables)})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("explain") / "run", tiny_config(ema_decay=0.0))


@pytest.fixture(scope="module")
def bundle(workdir) -> Path:
    file = workdir / "model.qsdt"
    write_bundle(file, bundle_of(load_trained(workdir)))
    return file


def digit(number: int) -> np.ndarray:
    return np.asarray(DigitsSource("test")[number]["image"])


def explained(network, image: np.ndarray):
    [prediction] = CLASSES.stream(network, [show(image, network.preprocess, 1, "one")])
    return explainer(network)(prediction)


@pytest.mark.slow
def test_each_image_gets_a_picture_and_the_answers_stay(workdir, tmp_path, capsys):
    """Images of one name have pictures of their own; no file of the user's is written over."""
    files = [tmp_path / "a.png", tmp_path / "other" / "a.png"]
    (tmp_path / "other").mkdir()
    for number, file in enumerate(files):
        Image.fromarray(digit(number)[..., 0]).save(file)
    sheet = tmp_path / "sheet.png"
    assert launch("predict", "--workdir", workdir, "--sheet", sheet, *files) == 0
    plain, before = capsys.readouterr().out, sheet.read_bytes()
    assert not (tmp_path / "explained").exists()
    folder = tmp_path / "explained"
    folder.mkdir()
    (folder / "a.png").write_text("mine")
    for _ in range(2):  # The second time over the pictures of the first.
        assert launch("predict", "--workdir", workdir, "--sheet", sheet, "--explain", *files) == 0
        found = capsys.readouterr()
        assert found.out == plain and sheet.read_bytes() == before
        assert f"explanations: {folder}, a PNG file each" in found.err
        assert f"{files[0]}: its explanation is a_2.png, for a.png is another file" in found.err
        assert sorted(file.name for file in folder.iterdir()) == ["a.png", "a_2.png", "a_3.png"]
    assert (folder / "a.png").read_text() == "mine"
    first, second = (np.asarray(Image.open(folder / f"a_{n}.png")) for n in (2, 3))
    assert not np.array_equal(first, second)
    out = tmp_path / "elsewhere"
    assert launch("predict", "--workdir", workdir, "--sheet", sheet, "--explain", "--out", out, files[0]) == 0
    assert [file.name for file in out.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_a_bundle_tells_the_same_but_for_gradients(workdir, bundle):
    """Its counts are those of the training form."""
    trained, deployed = load_trained(workdir), load_deployed(bundle)
    ours, theirs = explained(trained, digit(0)), explained(deployed, digit(0))
    assert [*ours.attention] == [*theirs.attention] == ["block3_0", "block4_0"]
    for block, received in ours.attention.items():
        assert received.shape == (2, 2) and received.sum() > 0
        np.testing.assert_array_equal(received, theirs.attention[block])
    assert [raster.stage for raster in ours.rasters] == [*(f"stage {n}" for n in range(1, 5)), "head"]
    for mine, other in zip(ours.rasters, theirs.rasters, strict=True):
        assert mine._replace(spikes=0) == other._replace(spikes=0) and 0 < mine.rate < 1
        np.testing.assert_array_equal(mine.spikes, other.spikes)
    assert ours.saliency.shape == (32, 32) and ours.saliency.max() > 0 and ours.grad_cam.shape == (2, 2)
    assert theirs.saliency is None and theirs.grad_cam is None


@pytest.mark.slow
def test_a_resformer_is_explained_by_its_own_attention(tmp_path):
    found = explained(load_trained(write(tmp_path / "run", resformer_config(ema_decay=0.0))), digit(0))
    assert found.dual and (found.levels, found.timesteps) == (1, 1)
    shapes = {block: received.shape for block, received in found.attention.items()}
    assert shapes == {"stage1_dssa0": (8, 8), "stage2_dssa0": (8, 8), "stage3_dssa0": (8, 8)}
    assert [raster.stage for raster in found.rasters] == ["stage 1", "stage 2", "stage 3"]
    assert found.attention["stage1_dssa0"].sum() > 0 and found.saliency.shape == (32, 32)


def test_networks_without_spikes_are_refused_in_one_line(tmp_path, capsys):
    workdir = write(tmp_path / "run", tiny_config(ema_decay=0.0, **FLOAT))
    Image.fromarray(digit(0)[..., 0]).save(tmp_path / "a.png")
    assert launch("predict", "--workdir", workdir, "--explain", tmp_path / "a.png") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "expected a classifier with spiking neurons and attention of spikes" in line
    assert not (workdir / "explained").exists()


@pytest.mark.slow
def test_segmenters_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    Image.fromarray(digit(0)[..., 0]).save(tmp_path / "a.png")
    arguments = ("--workdir", draw_workdir(tmp_path / "run"), "--explain", tmp_path / "a.png")
    assert launch("predict", *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --explain is for classifiers; ") and line.endswith(" is a segmenter")
