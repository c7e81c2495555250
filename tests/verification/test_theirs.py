"""Arrays of another program in its own order of axes; images that are drawn or lie in folders."""

import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.verification.seen import drawn_picture, image_files
from qsdt_jax.verification.theirs import Theirs

IMAGES, STEPS, PIXELS, CHANNELS = 3, 2, (4, 5), 6
OWN = np.random.default_rng(0).integers(0, 5, (IMAGES * STEPS, *PIXELS, CHANNELS)).astype(np.int8)
BY_STEP = OWN.reshape(IMAGES, STEPS, *PIXELS, CHANNELS)


def read(array: np.ndarray, own: np.ndarray = OWN, name: str = "block3_0.attn.neuron") -> np.ndarray:
    theirs = Theirs("a.npz", OWN, OWN, {name: array})
    return theirs.counts_like({"block3_0/attn/neuron": own}, STEPS)["block3_0/attn/neuron"]


@pytest.mark.parametrize(
    "array",
    [
        OWN,
        np.moveaxis(OWN, -1, 1),
        BY_STEP,
        np.moveaxis(BY_STEP, -1, 2),
        BY_STEP.swapaxes(0, 1),
        np.moveaxis(BY_STEP.swapaxes(0, 1), -1, 2),
        BY_STEP.swapaxes(0, 1).reshape(OWN.shape),
        OWN.reshape(IMAGES * STEPS, -1, CHANNELS),
        OWN.reshape(IMAGES * STEPS, -1, CHANNELS).swapaxes(1, 2),
        OWN.astype(np.float32),
    ],
)
def test_counts_in_each_order_of_axes(array):
    np.testing.assert_array_equal(read(array), OWN)


def test_of_two_orders_that_fit_the_nearer_is_taken():
    own = np.arange(IMAGES * STEPS * 4).reshape(IMAGES * STEPS, 2, 1, 2)
    for array in (own, np.moveaxis(own, -1, 1)):
        np.testing.assert_array_equal(read(array, own), own)
    other = own.copy()
    other[0, 0, 0, 0] += 7  # Also where not all numbers are the network's own.
    np.testing.assert_array_equal(read(np.moveaxis(other, -1, 1), own), other)


def test_counts_that_are_none():
    for array, told in [
        (OWN[:, :3], r"is \(6, 3, 5, 6\); expected \(6, 4, 5, 6\)"),
        (OWN / 4, "expected counts of spikes, 0, 1"),
    ]:
        with pytest.raises(UserError, match=told):
            read(array)
    with pytest.raises(UserError, match="did you mean 'block3_0/attn/neuron'"):
        read(OWN, name="block3_0.attn.neurn")


def test_files_in_folders(tmp_path):
    for name in ("b.png", "inside/a.JPG", "notes.txt"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    found = image_files([tmp_path / "c.png", tmp_path / "images"])
    assert [file.name for file in found] == ["c.png", "b.png", "a.JPG"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none: a folder without image files"):
        image_files([tmp_path / "none"])


def test_drawn_pictures_are_smooth_and_their_own():
    generator = np.random.default_rng(0)
    one, two = (drawn_picture(generator, (32, 48), 3) for _ in range(2))
    assert one.shape == (32, 48, 3) and one.dtype == np.uint8 and np.any(one != two)
    np.testing.assert_array_equal(one, drawn_picture(np.random.default_rng(0), (32, 48), 3))
    values = one.astype(float)
    assert 30 < values.std() < 70
    assert np.abs(np.diff(values, axis=1)).mean() < np.abs(values - values[:, ::-1]).mean() / 1.3
