"""Index images of every form, and what their numbers mean."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.data.index_images import Numbering, encode, read_indices
from qsdt_jax.errors import CorruptRecord
from tests.data.dense.segmentation_files import indices, png, png_of_depth

SMALL = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)


def saved(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_grey_pngs_of_any_depth(depth):
    """Pillow spreads those of few bits over 0..255."""
    pixels = np.random.default_rng(depth).integers(0, 2**depth, (5, 7))
    assert np.array_equal(read_indices(png_of_depth(pixels, depth), "a"), pixels)


def test_pngs_of_one_bit():
    pixels = SMALL % 2
    assert np.array_equal(read_indices(png_of_depth(pixels, 1), "a"), pixels)


@pytest.mark.parametrize("most", [1, 3, 15, 255])
def test_palettes_are_indices(most):
    """Of any depth: Pillow saves as few bits as the numbers need."""
    pixels = indices(1, most, 5, 7)
    picture = Image.frombytes("P", (7, 5), pixels.tobytes())
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 3 * (most + 1), np.uint8).tobytes())
    for form in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(read_indices(saved(picture, form), "a"), pixels), form


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_grey_images_of_other_formats(form):
    assert np.array_equal(read_indices(saved(Image.fromarray(SMALL), form), "a"), SMALL)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits(form):
    deep = np.array([[0, 255, 256], [1000, 65535, 1]], np.uint16)
    assert np.array_equal(read_indices(saved(Image.fromarray(deep), form), "a"), deep)


@pytest.mark.parametrize(
    ("numbering", "given", "expected", "dtype"),
    [
        (Numbering(3), [0, 1, 2, 255], [0, 1, 2, 255], np.uint8),
        (Numbering(3, True), [0, 1, 2, 3, 255], [255, 0, 1, 2, 255], np.uint8),
        (Numbering(150, True), [0, 150, 255], [255, 149, 255], np.uint8),
        (Numbering(255), [0, 254, 255], [0, 254, 255], np.uint8),
        (Numbering(256), [0, 254, 255], [0, 254, 255], np.uint16),  # 255 is a class.
        (Numbering(255, True), [0, 254, 255], [255, 253, 254], np.uint8),  # 255 is class 254.
        (Numbering(256, True), [0, 254, 255], [65535, 253, 254], np.uint16),
        (Numbering(254, True), [0, 254, 255], [255, 253, 255], np.uint8),
    ],
)
def test_what_numbers_mean(numbering, given, expected, dtype):
    found = numbering.decode(png(np.array([given], np.uint8)), (1, len(given)), "a")
    assert found.dtype == dtype and found.tolist() == [expected]


def test_sixteen_bits_for_few_classes_and_for_many():
    deep = np.array([[0, 1, 255, 65535]], np.uint16)
    found = Numbering(2).decode(png(deep), (1, 4), "a")
    assert found.dtype == np.uint8 and found.tolist() == [[0, 1, 255, 255]]
    found = Numbering(700).decode(png(np.array([[0, 255, 699, 65535]], np.uint16)), (1, 4), "a")
    assert found.dtype == np.uint16 and found.tolist() == [[0, 255, 699, 65535]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(indices(0, 3, 5, 7)), "the annotation is 5x7; expected 2x3 as its image"),
        (png(SMALL.T), "the annotation is 3x2; expected 2x3 as its image"),
        (png(SMALL + 1), "holds the index 4; expected 0..3"),
        (png(SMALL.astype(np.uint16) + 300), "holds the index 300; expected 0..3"),
        (png(np.stack([SMALL] * 3, -1)), "an annotation in colours (RGB); expected one number a pixel"),
        (png(np.stack([SMALL] * 4, -1)), "an annotation in colours (RGBA); expected one number a pixel"),
        (saved(Image.fromarray(SMALL.astype(np.float32)), "TIFF"), "an annotation in colours (F)"),
        (png(indices(0, 3, 50, 50))[:-60], "not a readable annotation (image file is truncated"),
        (b"", "not a readable annotation (of no known format)"),
        (b"404 not found", "not a readable annotation (of no known format)"),
        (saved(Image.fromarray(SMALL), "JPEG"), "not a readable annotation (of no known format)"),
    ],
)
def test_annotations_that_are_refused(content, message):
    with pytest.raises(CorruptRecord) as caught:
        Numbering(3, reduce_zero_label=True).decode(content, (2, 3), "masks/a.png")
    assert str(caught.value).startswith(f"masks/a.png: {message}") and "\n" not in str(caught.value)


def tiff(pixels: bytes, bits: int, meaning: int) -> bytes:
    """Of one row of four pixels: tags of size, bits, no compression, meaning, and place of the pixels."""
    places = 8 + 2 + 8 * 12 + 4
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: meaning, 273: places, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + pixels


@pytest.mark.parametrize(
    "content",
    [
        b"P5 4 1 3\n\0\1\2\3",
        b"P5 4 1 254\n\0\1\2\3",
        b"P5 4 1 300\n" + bytes([0, 0, 0, 1, 0, 2, 0, 3]),
        b"P2 4 1 3\n0 1 2 3\n",
        b"P1 4 1\n0 1 0 1\n",
        b"P4 4 1\n\x50",
        tiff(b"\x1b", 2, 1),
        tiff(b"\x01\x23", 4, 1),
        tiff(b"\0\1\2\3", 8, 0),
        tiff(b"\x50", 1, 0),
    ],
)
def test_numbers_that_pillow_changes_are_refused(content):
    """Scaled to 8 or 16 bits, or inverted, they would be those of other classes."""
    with pytest.raises(CorruptRecord) as caught:
        read_indices(content, "masks/a")
    assert str(caught.value) == (
        "masks/a: grey levels that are scaled or inverted; expected the numbers themselves, of 8 or 16 bits"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"P5 4 1 255\n\0\1\1\0",
        b"P2 4 1 255\n0 1 1 0\n",
        b"P5 4 1 65535\n" + bytes([0, 0, 0, 1, 0, 1, 0, 0]),
        b"P2 4 1 65535\n0 1 1 0\n",
        tiff(b"\0\1\1\0", 8, 1),
        tiff(bytes([0, 0, 1, 0, 1, 0, 0, 0]), 16, 1),
        tiff(b"\x60", 1, 1),
    ],
)
def test_numbers_that_pillow_keeps(content):
    assert read_indices(content, "a").tolist() == [[0, 1, 1, 0]]


def test_without_reducing_the_last_number_is_one_less():
    with pytest.raises(CorruptRecord, match=r"holds the index 3; expected 0\.\.2"):
        Numbering(3).decode(png(SMALL), (2, 3), "a")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_encoded_is_read_again(dtype):
    annotation = np.array([[0, 1, np.iinfo(dtype).max]], dtype)
    again = Numbering(2 if dtype == np.uint8 else 700).decode(encode(annotation), (1, 3), "a")
    assert again.dtype == dtype and np.array_equal(again, annotation)
