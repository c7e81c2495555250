"""Class maps of image files, and their sheet."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.answers.maps import ClassMap
from qsdt_jax.assemble.tasks import TASKS
from qsdt_jax.files import place
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.sheets.legend import palette
from qsdt_jax.sheets.maps import Drawn, MapsShown, draw_sheet, index_png
from qsdt_jax.sheets.written import free_file
from tests.launch.tiny import launch
from tests.loading.segmenting import CONFIG, NAMES, draw_workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return draw_workdir(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_images_of_every_kind_get_a_map_of_their_own_size(workdir, tmp_path, capsys):
    """Files that are none, or that fit no bucket, do not stop the others."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    (tmp_path / "other").mkdir()
    images = {
        "a.png": noise,
        "other/A.png": noise.convert("L"),
        "dot.png": noise.crop((0, 0, 1, 1)),
        "print.jpg": noise.convert("CMYK"),
        "clear.png": noise.convert("RGBA"),
        "deep.png": Image.fromarray(np.full((16, 24), 40_000, np.uint16)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (4, 300)).save(tmp_path / "long.png")
    files = [tmp_path / name for name in (*images, "text.png", "long.png")]
    before = (tmp_path / "a.png").read_bytes()
    assert launch("predict", "--workdir", workdir, *files, "--out", tmp_path, "--top", 2) == 2
    found = capsys.readouterr()

    lines = dict(line.split(": ", 1) for line in found.out.splitlines())
    assert list(lines) == [str(tmp_path / name) for name in images]
    maps = ["a_2.png", "A_3.png", "dot_2.png", "print.png", "clear_2.png", "deep_2.png"]
    for (name, image), file in zip(images.items(), maps, strict=True):
        with Image.open(tmp_path / file) as picture:
            assert picture.mode == "P" and picture.size == image.size
            shares = (
                np.bincount(np.asarray(picture).reshape(-1), minlength=len(NAMES))
                / picture.width
                / (picture.height)
            )
        order = [k for k in np.argsort(-shares, kind="stable")[:2] if shares[k]]
        told = ", ".join(f"{NAMES[k]} {100 * shares[k]:.2f} %" for k in order)
        assert lines[str(tmp_path / name)] == told
    assert (tmp_path / "a.png").read_bytes() == before
    told = found.err.splitlines()
    assert any(line.startswith(f"error: {tmp_path / 'text.png'}: not a readable image") for line in told)
    assert any(
        line.startswith(f"error: {tmp_path / 'long.png'}: an image of 300x4 pixels") and "buckets" in line
        for line in told
    )
    assert told[-2:] == [
        f"sheet: {workdir / 'predictions.png'}",
        "error: 2 of 8 files were left out, see above",
    ]
    with Image.open(workdir / "predictions.png") as sheet:
        assert sheet.format == "PNG"


@pytest.mark.slow
def test_places_that_do_not_fit_are_told(workdir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert launch("predict", "--workdir", workdir, tmp_path / "a.png", "--out", tmp_path / "file") == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file'} cannot be made: ")


@pytest.mark.slow
def test_a_task_that_does_not_answer_is_told(workdir, capsys, monkeypatch):
    name = CONFIG.task.name
    monkeypatch.setitem(TASKS, name, dataclasses.replace(TASKS[name], answering=None))
    assert launch("predict", "--workdir", workdir, "a.png") == 2
    assert capsys.readouterr().err == (
        "error: predict shows classes, class maps or objects; the task of "
        f"{load_trained(workdir).title} gives none of them\n"
    )


def test_names_never_meet(tmp_path):
    taken = {place(tmp_path / "a.png"), place(tmp_path / "A_2.png")}
    assert free_file(tmp_path, "a", taken) == tmp_path / "a_3.png"
    assert free_file(tmp_path, "A", taken) == tmp_path / "A_3.png"
    assert free_file(tmp_path, "b", taken) == tmp_path / "b.png"


def test_only_class_maps_are_written_over(tmp_path):
    classes, colors = np.zeros((2, 3), np.uint8), palette(2)
    Image.fromarray(classes).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("notes")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "d.png").symlink_to(tmp_path / "gone")
    (tmp_path / "e.png").write_bytes(index_png(classes, colors))
    (tmp_path / "f.png").write_bytes(index_png(classes.astype(np.uint16), colors))
    before = {name: (tmp_path / name).read_bytes() for name in ("a.png", "b.png")}
    for _ in range(2):  # The second time over the maps of the first.
        shown = MapsShown("run", ("x", "y"), 1, tmp_path, tmp_path / "sheet.png", ())
        for name in "abcdef":
            view = np.zeros((2, 3, 3), np.uint8)
            shown.add(ClassMap(name=f"{name}.jpg", view=view, classes=classes, shares=np.array([1.0, 0.0])))
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"{name}.png" for name in "abcdef"] + [f"{name}_2.png" for name in "abcd"]
    )


@pytest.mark.parametrize(("classes", "dtype", "mode"), [(200, np.uint8, "P"), (300, np.uint16, "I;16")])
def test_values_of_a_class_map_are_class_indices(tmp_path, classes, dtype, mode):
    values = np.arange(classes).astype(dtype).reshape(-1, 20)
    colors = palette(classes)
    (tmp_path / "a.png").write_bytes(index_png(values, colors))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), values)
        if mode == "P":
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colors[values])


def test_colours_differ_and_stay():
    colors = palette(150).astype(int)
    np.testing.assert_array_equal(palette(11), colors[:11])
    for count, least in ((11, 90), (150, 25)):
        apart = np.abs(colors[:count, None] - colors[None, :count]).sum(-1)
        assert apart[~np.eye(count, dtype=bool)].min() >= least


@pytest.mark.parametrize("shapes", [[(40, 60)], [(1, 1), (3, 400), (400, 3), (50, 50), (60, 20)]])
def test_sheet_shows_image_and_overlay_of_each(tmp_path, shapes):
    """White pictures of one class: their overlays, and one swatch of the legend, have its colour."""
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    images = [Drawn("x" * 300, np.full((*s, 3), 255, np.uint8), np.zeros(s, np.uint8)) for s in shapes]
    draw_sheet(tmp_path / "sheet.png", images, np.array([1.0, 0.0]), ("a" * 100, "b"), colors, "run" * 99)
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (pixels == [255, 0, 0]).all(-1).any() and not (pixels == [0, 0, 255]).all(-1).any()
    painted = (pixels[..., 0] > 240) & (abs(pixels[..., 1] - 77) < 4) & (abs(pixels[..., 2] - 77) < 4)
    side = 520 if len(shapes) == 1 else 286  # 4 or 2.2 inches.
    expected = sum(side * h / max(h, w) * side * w / max(h, w) for h, w in shapes)
    assert abs(painted.sum() / expected - 1) < 0.1
    for edge in (pixels[:30], pixels[-30:], pixels[:, :30], pixels[:, -30:]):
        assert edge.min() > 250  # The margins stay white.


def test_workdirs_of_other_classes_are_told(workdir, tmp_path, capsys):
    """Also of a segmentation: as many names as outputs."""
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "data.json").write_text(json.dumps({"class_names": ["a"], "training_images": None}))
    assert launch("predict", "--workdir", tmp_path / "run", "a.png") == 2
    assert "expected 3 class names, one for each output; found 1" in capsys.readouterr().err
    assert CONFIG.data.fake_classes == 3
