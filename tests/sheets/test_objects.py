"""Objects painted over images of any size, and their sheet."""

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.answers.objects import Objects
from qsdt_jax.sheets.objects import Drawn, ObjectsShown, draw_sheet
from qsdt_jax.sheets.painted import Found, painted, resized

RED = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)


def found(*boxes, category=0) -> Found:
    """Objects that fill their boxes."""
    count = len(boxes)
    return Found(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.5, count),
        categories=np.full(count, category),
        shapes=np.ones((count, 28, 28), np.float32),
    )


def test_what_is_painted_lies_on_the_object():
    """Its colour along the box, tinted inside, a name above, and nothing elsewhere."""
    image = np.full((100, 120, 3), 255, np.uint8)
    pixels = np.asarray(painted(image, found((40, 40, 110, 90)), ("a", "b"), RED, 10)).astype(int)
    assert (pixels[40, 41:109] == [255, 0, 0]).all() and (pixels[41:89, 109] == [255, 0, 0]).all()
    assert (pixels[60:80, 60:90] == pixels[70, 70]).all() and 100 < pixels[70, 70, 1] < 200
    changed = (pixels != 255).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert 20 < rows[0] < 36 and rows[-1] == 89 and columns[0] == 40 and columns[-1] == 109


@pytest.mark.parametrize(
    "box", [(-30, -20, 5, 4), (90, 90, 300, 300), (5, 5, 5, 5), (0, 0, 0.2, 99), (50, 0, 60, 1)]
)
def test_boxes_at_edges_and_without_area_are_painted(box):
    image = np.zeros((64, 72, 3), np.uint8)
    picture = painted(image, found(box), ("a name that is much wider than the image", "b"), RED, 12)
    assert picture.size == (72, 64)


def test_images_are_scaled_with_their_objects():
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 1), np.uint8)
    larger, scaled = resized(image, found((4, 5, 8, 10)), 80, 200)
    assert larger.shape == (40, 80, 3)
    np.testing.assert_allclose(scaled.boxes, [[8, 10, 16, 20]])
    np.testing.assert_array_equal(larger[::2, ::2], np.repeat(image, 3, -1))
    smaller, scaled = resized(image, found((4, 5, 8, 10)), 1, 20)
    assert smaller.shape == (10, 20, 3)
    np.testing.assert_allclose(scaled.boxes, [[2, 2.5, 4, 5]])


@pytest.mark.parametrize("shapes", [[(40, 60)], [(1, 1), (3, 400), (400, 3), (50, 50), (60, 20)]])
def test_sheet_shows_all_images_and_the_categories_that_occur(tmp_path, shapes):
    images = [Drawn("x" * 300, np.full((*s, 3), 255, np.uint8), found((0, 0, s[1], s[0]))) for s in shapes]
    draw_sheet(tmp_path / "sheet.png", images, ("a" * 100, "b"), RED, "run" * 99)
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 240) & (pixels[..., 1] < 170) & (pixels[..., 1] == pixels[..., 2])
    side = 780 if len(shapes) == 1 else 364  # 6 or 2.8 inches.
    expected = sum(side * h / max(h, w) * side * w / max(h, w) for h, w in shapes)
    assert 0.8 < red.sum() / expected < 1.1
    assert not (pixels == [0, 0, 255]).all(-1).any()
    for edge in (pixels[:30], pixels[-30:], pixels[:, :30], pixels[:, -30:]):
        assert edge.min() > 250  # The margins stay white.


def test_an_image_without_objects_is_shown_too(tmp_path):
    shown = ObjectsShown("run", ("a", "b"), 3, 0.3, tmp_path / "out", tmp_path / "sheet.png", ())
    image = np.full((10, 12, 3), 7, np.uint8)
    empty = {"boxes": np.zeros((0, 4)), "shapes": np.zeros((0, 28, 28))}
    none = Objects(name="a.png", image=image, scores=np.zeros(0), categories=np.zeros(0, np.int32), **empty)
    assert shown.add(none) == "no object"
    shown.draw(tmp_path / "sheet.png")
    assert (tmp_path / "out" / "detections.json").read_text() == "[]\n"
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.size == (640, 533) and np.ptp(np.asarray(picture)) == 0
