"""Geometry: images, masks and boxes go to the same places, by coordinates computed otherwise."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.data.augment import draw_affine, draw_flip, draw_resized_crop
from qsdt_jax.data.geometry import Affine, Crop, Flip, Pad, Resize, Steps, Window, moved, resize_and_crop
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.data.randaugment import (
    rotate,
    sample_operations,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)

HEIGHT, WIDTH = SIZE = (40, 60)
MOVEMENTS = (rotate, shear_x, shear_y, translate_x, translate_y)
TURN = Affine(SIZE, (0.9, 0.2, -3.0, -0.25, 1.1, 4.0))

# Each geometry, the size of what comes out, and where the content of a new place (x, y) stood.
GEOMETRIES = {
    "crop": (Crop(5, 7, 30, 20), (30, 20), lambda x, y: (x + 7, y + 5)),
    "smaller": (Resize(SIZE, (16, 20)), (16, 20), lambda x, y: (x * 3, y * 2.5)),
    "larger": (Resize(SIZE, (100, 90)), (100, 90), lambda x, y: (x / 1.5, y * 0.4)),
    "flip": (Flip(WIDTH), SIZE, lambda x, y: (WIDTH - x, y)),
    "pad": (Pad(1, 2, 3, 4), (44, 66), lambda x, y: (x - 2, y - 1)),
    "affine": (TURN, SIZE, lambda x, y: (0.9 * x + 0.2 * y - 3, -0.25 * x + 1.1 * y + 4)),
    "window": (Window(SIZE, (7.5, 5, 47.5, 35), (90, 60)), (90, 60), lambda x, y: (x / 1.5 + 7.5, y / 3 + 5)),
    "mirrored window": (
        Window(SIZE, (0, 2.25, 60, 34.25), (16, 50), mirrored=True),
        (16, 50),
        lambda x, y: (60 - 1.2 * x, 2 * y + 2.25),
    ),
    "nothing": (Steps(), SIZE, lambda x, y: (x, y)),
    "steps": (
        Steps((Crop(10, 0, 20, 60), Flip(60), Resize((20, 60), (40, 20)), Pad(left=5))),
        (40, 25),
        lambda x, y: (60 - 3 * (x - 5), y / 2 + 10),
    ),
}
each = pytest.mark.parametrize(
    ("geometry", "size", "source"), [pytest.param(*case, id=name) for name, case in GEOMETRIES.items()]
)


def rectangle(box) -> np.ndarray:
    """The mask of a box with whole corners."""
    x0, y0, x1, y1 = box
    mask = np.zeros(SIZE, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def around(mask: np.ndarray) -> list[int]:
    """The corners of what a mask covers."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    """Large ones with whole corners inside the frame."""
    generator = np.random.default_rng(seed)
    x0, y0 = generator.integers(0, WIDTH - 25, count), generator.integers(0, HEIGHT - 15, count)
    x1 = x0 + generator.integers(15, WIDTH - x0 + 1)
    return np.stack([x0, y0, x1, y0 + generator.integers(10, HEIGHT - y0 + 1)], axis=1)


@each
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_a_pixel_of_a_mask_is_that_in_which_its_centre_stood(geometry, size, source, dtype):
    """Pixel by pixel; 0 from outside."""
    mask = np.random.default_rng(0).integers(1, 200, SIZE).astype(dtype)
    expected = np.zeros(size, dtype)
    for i, j in np.ndindex(size):
        x, y = source(j + 0.5, i + 0.5)
        if 0 <= x < WIDTH and 0 <= y < HEIGHT:
            expected[i, j] = mask[int(y), int(x)]
    found = geometry.apply_mask(mask)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


@each
def test_several_masks_go_as_one(geometry, size, source):
    del source
    masks = np.random.default_rng(1).random((2, 3, *SIZE)) < 0.5
    found = geometry.apply_mask(masks)
    assert found.dtype == np.bool_ and found.shape == (2, 3, *size)
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[index], geometry.apply_mask(masks[index]))


@each
def test_a_box_is_what_is_left_of_its_points(geometry, size, source):
    """Against a fine grid of points of the new frame, of which those count that stood in the box."""
    fine = 8
    y, x = (np.mgrid[: size[0] * fine, : size[1] * fine] + 0.5) / fine
    old_x, old_y = source(x, y)
    boxes = random_boxes(10).astype(np.float32)
    found = geometry.apply_boxes(boxes)
    assert found.dtype == np.float32 and found.shape == boxes.shape
    for (x0, y0, x1, y1), corners in zip(boxes, found, strict=True):
        within = (old_x >= x0) & (old_x <= x1) & (old_y >= y0) & (old_y <= y1)
        if not within.any():
            assert (corners[2] - corners[0]) * (corners[3] - corners[1]) == 0
            continue
        expected = [x[within].min(), y[within].min(), x[within].max(), y[within].max()]
        if not isinstance(geometry, Affine):  # Of a turned box that is cut off, more than what is left.
            assert np.all(np.abs(corners - expected) <= 1 / fine)
        assert np.all(corners[:2] <= np.array(expected[:2]) + 1e-3)
        assert np.all(corners[2:] >= np.array(expected[2:]) - 1e-3)


def test_the_corners_of_a_turned_box():
    """Against solving for the place of each corner; what stays inside is not cut off."""
    box = np.array([[20.0, 12.0, 40.0, 25.0]])
    matrix = np.array([[0.9, 0.2], [-0.25, 1.1]])
    corners = np.array([np.linalg.solve(matrix, [x + 3, y - 4]) for x in (20, 40) for y in (12, 25)])
    expected = [*corners.min(0), *corners.max(0)]
    np.testing.assert_allclose(TURN.apply_boxes(box), [expected], atol=1e-9)


@each
def test_box_and_image_follow_the_mask(geometry, size, source):
    """The upright box around a moved rectangle, and where the picture of it is white."""
    del source
    for box in random_boxes(20, seed=2):
        mask = rectangle(box)
        moved_mask = geometry.apply_mask(mask)
        corners = geometry.apply_boxes(box[None].astype(np.float64))[0]
        if not moved_mask.any():
            continue
        if not isinstance(geometry, Affine) or (corners.min() > 0 and np.all(corners[2:] < size[::-1])):
            assert np.abs(corners - around(moved_mask)).max() <= 1
        image = geometry.apply_image(255 * mask[..., None])
        assert image.shape == (*size, 1)
        white = image[..., 0] > 127
        # They differ at the edge alone, where an image is smooth.
        inner = np.pad(moved_mask, 1)
        same = [np.roll(inner, shift, axis) == inner for axis in (0, 1) for shift in (-1, 1)]
        sure = np.all(same, axis=0)[1:-1, 1:-1]
        np.testing.assert_array_equal(white[sure], moved_mask[sure] == 1)


@pytest.mark.parametrize("name", ["none", "crop_flip", "affine", "evaluation"])
def test_drawn_geometry_gives_the_size_and_moves_all_alike(name):
    size = (32, 48)
    for seed in range(30):
        generator = np.random.default_rng(seed)
        if name in ("none", "evaluation"):
            geometry = resize_and_crop(SIZE, size, 0.8 if name == "evaluation" else 1.0)
        elif name == "crop_flip":
            crop = draw_resized_crop(generator, SIZE, size, area=(0.2, 1))
            geometry = Steps((crop, draw_flip(generator, 48)))
        else:
            geometry = Steps((resize_and_crop(SIZE, size), draw_affine(generator, size)))
        box = random_boxes(1, seed)[0]
        mask, corners = geometry.apply_mask(rectangle(box)), geometry.apply_boxes(box[None] * 1.0)[0]
        assert mask.shape == size and geometry.apply_image(rectangle(box)[..., None]).shape == (*size, 1)
        assert corners.min() >= 0 and np.all(corners[2:] <= size[::-1])
        if mask.any():
            # A crop resized to more pixels spreads the rounding of a mask as well.
            slack = 4 if name == "affine" else 2
            assert np.all(corners[:2] <= np.array(around(mask)[:2]) + 1)
            assert np.all(corners[2:] >= np.array(around(mask)[2:]) - 1)
            if corners.min() > 0 and np.all(corners[2:] < size[::-1]):
                assert np.abs(corners - around(mask)).max() <= slack
        else:
            assert np.prod(corners[2:] - corners[:2]) <= 4 * (name == "affine") + 2


def test_boxes_outside_of_the_frame_stay_in_number_without_area():
    boxes = np.array([[1, 1, 4, 4], [50, 30, 60, 40], [0, 0, 0, 0], [2, 2, 30, 30]], np.float32)
    found = Crop(0, 0, 10, 20).apply_boxes(boxes)
    np.testing.assert_array_equal(found, [[1, 1, 4, 4], [20, 10, 20, 10], [0, 0, 0, 0], [2, 2, 20, 10]])
    assert Crop(0, 0, 10, 20).apply_boxes(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert TURN.apply_boxes(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_a_geometry_is_a_value():
    drawn = [draw_affine(np.random.default_rng(3), SIZE) for _ in range(2)]
    assert drawn[0] == drawn[1] and hash(drawn[0]) == hash(drawn[1])
    assert drawn[0] != draw_affine(np.random.default_rng(4), SIZE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        drawn[0].size = (1, 1)


# In a preprocess


@pytest.mark.parametrize("augmentation", ["none", "affine", "crop_flip"])
def test_a_preprocess_moves_what_it_knows_by_one_draw(augmentation):
    """The image tells where everything went: the picture of the mask."""
    preprocess = Preprocess(
        size=(32, 48), mean=(0.0,), std=(1.0,), augmentation=augmentation, crop_area=(0.3, 1)
    )
    seen = set()
    for seed in range(20):
        box = random_boxes(1, seed)[0]
        mask = rectangle(box)
        alone = {"image": 255 * mask[..., None]}
        example = {**alone, "masks": mask, "boxes": box[None].astype(np.float32), "target": "untouched"}
        generators = [np.random.default_rng(seed) for _ in range(2)]
        found = preprocess.train(example, generators[0])
        # Boxes and masks draw nothing.
        np.testing.assert_array_equal(found["image"], preprocess.train(alone, generators[1])["image"])
        assert generators[0].bit_generator.state == generators[1].bit_generator.state
        white = found["image"][..., 0] > 127
        assert np.mean(white != found["masks"]) < 0.1
        assert found["target"] == "untouched"
        if white.any():
            assert np.all(found["boxes"][0, :2] <= np.array(around(white)[:2]) + 1)
            assert np.all(found["boxes"][0, 2:] >= np.array(around(white)[2:]) - 1)
        seen.add(found["boxes"].tobytes())
        view = preprocess.evaluate(example)
        assert np.mean((view["image"][..., 0] > 127) != view["masks"]) < 0.1
    assert len(seen) > 10


def test_a_preprocess_with_randaugment_moves_boxes_and_masks_too():
    """Where it draws nothing but movements, the image tells where everything went."""
    preprocess = Preprocess(size=SIZE, mean=(0.0,), std=(1.0,), randaugment_magnitude=9.0)
    moves = 0
    for seed in range(150):
        drawn = sample_operations(np.random.default_rng(seed))
        if not drawn or any(operation not in MOVEMENTS for operation, _ in drawn):
            continue
        box = random_boxes(1, seed)[0]
        mask = rectangle(box)
        example = {"image": 255 * mask[..., None], "masks": mask, "boxes": box[None].astype(np.float32)}
        found = preprocess.train(example, np.random.default_rng(seed))
        white = found["image"][..., 0] > 127
        assert np.mean(white != found["masks"]) < 0.05
        if white.any():
            assert np.all(found["boxes"][0, :2] <= np.array(around(white)[:2]) + 1)
            assert np.all(found["boxes"][0, 2:] >= np.array(around(white)[2:]) - 1)
        moves += not np.array_equal(found["masks"], mask)
    assert moves > 20


def test_moved_leaves_other_keys_alone():
    target = object()
    found = moved({"boxes": [[0.0, 0.0, 1.0, 2.0]], "target": target}, Flip(10))
    np.testing.assert_array_equal(found["boxes"], [[9, 0, 10, 2]])
    assert found["target"] is target


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_of_a_window_go_back_to_where_they_stood(mirrored):
    """As far as they lay in its part."""
    window = Window(SIZE, (7.25, 5.5, 47.5, 35), (90, 60), mirrored)
    boxes = random_boxes(50).astype(np.float64)
    expected = np.clip(boxes, (7.25, 5.5, 7.25, 5.5), (47.5, 35, 47.5, 35))
    np.testing.assert_allclose(window.original(window.apply_boxes(boxes)), expected, atol=1e-12)


def test_a_window_on_the_whole_frame_resizes_it():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    whole = (0, 0, WIDTH, HEIGHT)
    expected = Resize(SIZE, (33, 71), Image.Resampling.BILINEAR).apply_image(image)
    np.testing.assert_array_equal(Window(SIZE, whole, (33, 71)).apply_image(image), expected)
    np.testing.assert_array_equal(Window(SIZE, whole, (33, 71), True).apply_image(image), expected[:, ::-1])
    np.testing.assert_array_equal(Window(SIZE, whole, SIZE).apply_image(image), image)
