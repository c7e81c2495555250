"""What is stored of a record."""

import io

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.data.images import decode_image
from qsdt_jax.data.prepare.cifar10dvs import read_cifar10dvs
from qsdt_jax.data.prepare.eventfolder import read_eventfolder
from qsdt_jax.data.prepare.examples import checked_image, example_of
from qsdt_jax.errors import CorruptRecord
from tests.data.prepare.files import aedat, encoded, write_files

DEEP = np.array([[0, 128, 129, 257, 40000, 65535]], np.uint16)


def content(pixels: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
def test_sixteen_bits_become_eight(form):
    """Pillow alone would make all above 255 white."""
    stored = checked_image(content(DEEP, form), "deep")
    expected = np.round(DEEP / 257).astype(np.uint8)
    assert np.array_equal(decode_image(stored, 3, "deep"), np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_an_unknown_range_are_refused(kind):
    with pytest.raises(CorruptRecord, match=r"deep: not a readable image \(32-bit pixels"):
        checked_image(content(DEEP.astype(kind), "TIFF"), "deep")


def test_jpeg_stays_byte_for_byte():
    assert checked_image(encoded(1), "a") == encoded(1)


def test_the_camera_of_cifar10dvs_lay_on_its_side(tmp_path):
    """Bits 8-14 are 3, bits 1-7 are 5: the usual readers give column 124 and row 122, jAER the opposite."""
    stream = aedat([3 << 8 | 5 << 1], [7])
    write_files(tmp_path, {f"cat/cifar10_cat_{i}.aedat": stream for i in range(10)})
    for read, (x, y) in (
        (read_cifar10dvs, (124, 122)),
        (lambda s: read_eventfolder(s, (128, 128)), (122, 124)),
    ):
        dataset = read(tmp_path)
        events = example_of(dataset.splits["train"][0], dataset)["events"]
        assert (events["x"].tolist(), events["y"].tolist()) == ([x], [y])
