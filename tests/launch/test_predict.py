"""Predictions of image files."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from qsdt_jax.answers.classes import CLASSES, Prediction
from qsdt_jax.answers.pictures import show
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.data.geometry import resize_and_crop
from qsdt_jax.data.images import normalize
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.sheets.classes import draw_sheet
from qsdt_jax.sheets.sheet import MOST_IMAGES
from tests.launch.tiny import DIGITS, draw_variables, launch, make_state, tiny_config, write_workdir

CONFIG = tiny_config()
BATCH = 4
WHITE = 250


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    state = make_state(CONFIG, draw_variables(CONFIG, 1))
    return write_workdir(tmp_path_factory.mktemp("predict"), CONFIG, {0: state})


@pytest.fixture(scope="module")
def trained(workdir):
    return load_trained(workdir)


@pytest.fixture(autouse=True, scope="module")
def small_batches():
    """So that few images fill one, and all tests have it in common."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qsdt_jax.answers.answering.LARGEST_BATCH", BATCH)
        yield


@pytest.fixture(scope="module")
def predictions(trained) -> list[Prediction]:
    """Of more test images than fit a batch, and of a number that leaves the last one short."""
    source = DigitsSource("test")
    return predict(trained, [np.asarray(source[i]["image"]) for i in range(2 * BATCH - 1)])


def predict(trained, images) -> list[Prediction]:
    shown = (show(image, trained.preprocess, 1, str(i)) for i, image in enumerate(images))
    return list(CLASSES.stream(trained, shown))


def drawn(count: int, classes: int = 3) -> list[Prediction]:
    image = np.zeros((32, 32, 1), np.uint8)
    logits = np.zeros(classes, np.float32)
    return [Prediction(name=f"{i}.png", view=image, logits=logits) for i in range(count)]


def ink(file: Path) -> np.ndarray:
    """Where a sheet is not white."""
    return np.asarray(Image.open(file).convert("L")) < WHITE


@pytest.mark.slow
def test_probabilities_are_those_of_evaluation(trained, predictions):
    source, preprocess = DigitsSource("test"), build_preprocess(CONFIG)
    count = len(predictions)
    assert count == 2 * BATCH - 1
    views = [preprocess.evaluate(source[i])["image"] for i in range(count)]
    images = np.stack([normalize(view, preprocess.mean, preprocess.std) for view in views])
    parts = [images[:BATCH], images[-BATCH:]]  # Of the full size both; they have an image in common.
    logits = [np.asarray(trained.outputs({"image": part})) for part in parts]
    expected = np.asarray(jax.nn.softmax(np.concatenate([logits[0], logits[1][1:]]), axis=1))
    # No two images have the same probabilities, else their order would be untested.
    distances = np.abs(expected[:, None] - expected[None]).max(-1)
    assert np.all(distances[~np.eye(count, dtype=bool)] > 1e-3)
    for i, prediction in enumerate(predictions):
        assert prediction.name == str(i)
        np.testing.assert_array_equal(prediction.view, source[i]["image"])
        assert np.all(np.diff(prediction.probabilities[prediction.order]) <= 0)
        np.testing.assert_allclose(prediction.probabilities, expected[i], rtol=1e-4)
        assert abs(prediction.probabilities.sum() - 1) < 1e-12


@pytest.mark.slow
def test_view_is_cut_out_as_in_evaluation(trained, predictions):
    """Once, by the configuration's crop ratio."""
    config = trained.config.copy_and_resolve_references()
    config.data.eval_crop_ratio = 0.5
    image = np.asarray(DigitsSource("test")[0]["image"])
    preprocess = build_preprocess(config)
    view = preprocess.evaluate({"image": image, "label": 0})["image"]
    inputs = normalize(view, preprocess.mean, preprocess.std)
    logits = trained.outputs({"image": inputs[None]})
    (found,) = predict(dataclasses.replace(trained, config=config), [image])
    np.testing.assert_array_equal(
        found.view, resize_and_crop(image.shape[:2], (32, 32), 0.5).apply_image(image)
    )
    expected = jax.nn.softmax(np.asarray(logits, np.float64)[0])
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4)
    assert not np.array_equal(found.view, predictions[0].view)


@pytest.mark.slow
def test_command_line_with_images_of_every_kind(workdir, trained, predictions, tmp_path, capsys, monkeypatch):
    """Colour models that lose nothing predict the same; files that are no images do not stop the others."""
    digit = Image.fromarray(predictions[0].view[..., 0])
    saved = {"grey.png": digit, "rgb.png": digit.convert("RGB"), "palette.png": digit.convert("P")}
    for name, image in saved.items():
        image.save(tmp_path / name)
    digit.resize((200, 120)).save(tmp_path / "large.jpg")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes((tmp_path / "rgb.png").read_bytes()[:150])
    monkeypatch.chdir(tmp_path)
    good, bad = [*saved, "large.jpg"], ["text.png", "cut.png", "missing.png"]
    assert len(good) == BATCH
    assert launch("predict", "--workdir", workdir, *bad[:2], *good, "--top", 2, bad[2]) == 2
    found = capsys.readouterr()

    lines = dict(line.split(": ") for line in found.out.splitlines())
    assert list(lines) == good
    chances = predictions[0].probabilities
    expected = ", ".join(f"{k} {100 * chances[k]:.2f} %" for k in predictions[0].order[:2])
    assert {lines[name] for name in saved} == {expected}
    assert re.fullmatch(r"\d \d+\.\d\d %, \d \d+\.\d\d %", lines["large.jpg"])

    *told, sheet, last = found.err.splitlines()
    assert [line.split(":")[:2] for line in told] == [["error", f" {name}"] for name in bad]
    assert sheet == f"sheet: {workdir / 'predictions.png'}"
    assert last == "error: 3 of 7 files were left out, see above"
    assert Image.open(workdir / "predictions.png").format == "PNG"


@pytest.mark.slow
def test_mistakes_in_one_line(workdir, tmp_path, capsys):
    image = tmp_path / "image.png"
    Image.new("L", (32, 32)).save(image)
    for arguments, told in [
        ([image], "predict needs --workdir"),
        (["--workdir", workdir], "predict needs image files"),
        (["--workdir", workdir, image, "--top", "0"], "--top 0 must be at least 1"),
        (["--workdir", tmp_path / "none", image], "no such directory"),
        (["--bundle", tmp_path / "model.qsdt", "--step=best", image], "a bundle holds one network"),
        (
            ["--workdir", workdir, image, "--sheet", tmp_path / "x.jpg"],
            "expected a file name that ends in .png",
        ),
        (["--workdir", workdir, image, "--sheet", tmp_path / "no" / "x.png"], "x.png cannot be written"),
    ]:
        assert launch("predict", *arguments) == 2
        found = capsys.readouterr()
        assert found.out == ""
        assert found.err.startswith("error: ") and found.err.count("\n") == 1, found.err
        assert told in found.err


@pytest.mark.slow
def test_network_of_two_channels(trained, tmp_path, capsys, monkeypatch):
    config = trained.config.copy_and_resolve_references()
    config.data.channels = 2
    odd = dataclasses.replace(trained, config=config, workdir=tmp_path)
    monkeypatch.setattr("qsdt_jax.loading.trained.load_trained", lambda *args, **kwargs: odd)
    assert launch("predict", "--workdir", tmp_path, "a.png", "b.png") == 2
    told = capsys.readouterr().err
    assert told == "error: image files give 1 or 3 channels, but the network takes 2\n"


@pytest.mark.parametrize("count", [1, 7, 40])
def test_sheet_shows_every_image_apart_from_the_others(tmp_path, count):
    draw_sheet(tmp_path / "sheet.png", drawn(count), ("a", "b", "c"), "run")
    dark = ink(tmp_path / "sheet.png")
    assert not dark[0].any() and not dark[-1].any() and not dark[:, 0].any() and not dark[:, -1].any()
    # Only the pictures are black for longer than a word is high, down and across.
    black = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")) < 30
    window = np.lib.stride_tricks.sliding_window_view(black, 100, axis=0).all(-1)
    window = np.lib.stride_tricks.sliding_window_view(window, 100, axis=1).all(-1)
    corners = window & ~np.roll(window, 1, 0) & ~np.roll(window, 1, 1)
    assert corners.sum() == count


def test_long_and_odd_names_stay_in_their_cell(tmp_path):
    """Names of any length and letters, one with a formula's marks, leave the margins and the gaps white."""
    names = ("W" * 200, "$x_1$ and $\\frac{", "犬 " * 40)
    predictions = [dataclasses.replace(p, name="long_" * 40 + ".png") for p in drawn(2)]
    draw_sheet(tmp_path / "sheet.png", predictions, names, "runs/" * 60)
    dark = ink(tmp_path / "sheet.png")
    assert not dark[:, :35].any() and not dark[:, -35:].any()  # Margins are 39 pixels wide.
    below = dark[100:]
    middle = below.shape[1] // 2
    assert not below[:, middle - 12 : middle + 12].any()


def test_sheet_of_two_classes_and_colour(tmp_path):
    colour = np.zeros((16, 32, 3), np.uint8) + np.array([200, 30, 30], np.uint8)
    prediction = Prediction(name="red.png", view=colour, logits=np.array([0.0, 9.0], np.float32))
    draw_sheet(tmp_path / "sheet.png", [prediction], ("cat", "dog"), "run")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    red = np.all(pixels == [200, 30, 30], axis=-1)
    rows, columns = np.any(red, 1).sum(), np.any(red, 0).sum()
    assert abs(columns / rows - 2) < 0.05  # The pictures keep the shape of the net's input.


@pytest.mark.slow
def test_more_images_than_a_sheet_holds(trained, workdir, capsys, monkeypatch, tmp_path):
    image = tmp_path / "image.png"
    Image.new("L", (32, 32)).save(image)
    monkeypatch.setattr("qsdt_jax.loading.trained.load_trained", lambda *args, **kwargs: trained)
    for module in ("launch.predict", "qsdt_jax.sheets.classes"):
        monkeypatch.setattr(f"{module}.MOST_IMAGES", 2)
    monkeypatch.setattr("launch.predict._answers", lambda *arguments: iter(drawn(3, len(DIGITS))))
    sheet = tmp_path / "sheet.png"
    assert launch("predict", "--workdir", workdir, "--sheet", sheet, *[image] * 3) == 0
    found = capsys.readouterr()
    assert found.out.count("\n") == 3
    assert found.err == f"sheet: {sheet} (the first 2 of 3 images)\n"
    assert MOST_IMAGES >= 40
