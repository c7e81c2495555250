"""Image files of every kind become pixels, or one clear line."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsdt_jax import retry
from qsdt_jax.data.images import read_image
from qsdt_jax.errors import CorruptRecord, UserError

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (6, 9), np.uint8)
COLOUR = GENERATOR.integers(0, 256, (6, 9, 3), np.uint8)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601.


def stored(folder, image: Image.Image, name: str = "image.png", **options) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


def refusal(path, channels: int = 3) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path, channels)
    return str(caught.value)


def with_alpha(mode: str) -> Image.Image:
    """A picture whose transparency says nothing about its colour."""
    image = Image.fromarray(GREY if mode == "LA" else COLOUR).convert(mode)
    image.putalpha(Image.fromarray(GREY))
    return image


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(GREY), with_alpha("LA"), Image.fromarray(GREY.astype(np.uint16) * 257)],
    ids=["8 bits", "transparent", "16 bits"],
)
def test_grey(tmp_path, image):
    path = stored(tmp_path, image)
    assert np.array_equal(read_image(path, 1), GREY[..., None])
    assert np.array_equal(read_image(path, 3), np.repeat(GREY[..., None], 3, axis=-1))


def test_sixteen_bits_are_rounded(tmp_path):
    deep = np.array([[0, 128, 129, 257, 40000, 65406, 65407, 65535]], np.uint16)
    expected = np.round(deep / 65535 * 255)
    assert np.array_equal(read_image(stored(tmp_path, Image.fromarray(deep)), 1)[..., 0], expected)


def test_no_program_runs_to_draw_an_image(tmp_path):
    """PostScript would be handed to Ghostscript."""
    path = tmp_path / "image.png"
    Image.fromarray(COLOUR).save(path, "EPS")
    assert refusal(path) == f"{path}: not a readable image (of no known format)"


def test_two_levels(tmp_path):
    path = stored(tmp_path, Image.fromarray(GREY > 127))
    assert np.array_equal(read_image(path, 1)[..., 0], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize(
    "image", [Image.fromarray(COLOUR), with_alpha("RGBA")], ids=["8 bits", "transparent"]
)
def test_colour(tmp_path, image):
    path = stored(tmp_path, image)
    pixels = read_image(path, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, COLOUR)
    assert np.abs(read_image(path, 1)[..., 0] - COLOUR @ LUMA).max() <= 1


def test_palette(tmp_path):
    image = Image.fromarray(COLOUR).quantize(8)
    assert image.mode == "P"
    palette = np.reshape(image.getpalette(), (-1, 3))
    assert np.array_equal(read_image(stored(tmp_path, image), 3), palette[np.asarray(image)])


def test_jpeg(tmp_path):
    """Smooth, so that the compression changes little."""
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0:200:4, 0:200:4], 90), axis=-1).astype(np.uint8)
    path = stored(tmp_path, Image.fromarray(ramp), "image.JPEG", quality=95)
    assert np.abs(read_image(path, 3).astype(int) - ramp).max() <= 6


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 255, 255, 0), (255, 0, 0)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 127), (128, 128, 128))],
)
def test_cmyk_jpeg(tmp_path, ink, colour):
    """ImageNet has 22 of them."""
    path = stored(tmp_path, Image.new("CMYK", (16, 16), ink), "image.jpg", quality=95)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(read_image(path, 3).astype(int) - colour).max() <= 2


def test_the_name_says_nothing_about_the_format(tmp_path):
    """ImageNet has a PNG named .JPEG."""
    path = stored(tmp_path, Image.fromarray(COLOUR), "image.JPEG", format="PNG")
    assert np.array_equal(read_image(path, 3), COLOUR)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP"])
def test_file_cut_off_anywhere(tmp_path, form):
    """It is refused, or what is missing is not needed for the pixels."""
    whole = io.BytesIO()
    Image.fromarray(COLOUR).save(whole, form)
    path = tmp_path / "image"
    path.write_bytes(whole.getvalue())
    expected = read_image(path, 3)
    refused = 0
    for end in range(0, len(whole.getvalue()), 7):
        path.write_bytes(whole.getvalue()[:end])
        try:
            assert np.array_equal(read_image(path, 3), expected)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{path}: not a readable image (")
    assert refused * 7 > 0.8 * len(whole.getvalue())


def test_what_is_no_image(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png"):
        assert refusal(tmp_path / name).startswith(f"{tmp_path / name}: not a readable image")
    assert refusal(tmp_path / "none.png") == f"{tmp_path / 'none.png'}: no such image file"
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read (Is a directory)"


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_white(tmp_path, kind):
    path = stored(tmp_path, Image.fromarray(GREY.astype(kind)), "image.tiff")
    assert "32-bit pixels, of which none is known to be white" in refusal(path)


def test_image_too_large_to_be_meant(tmp_path, monkeypatch):
    path = stored(tmp_path, Image.fromarray(GREY))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert "exceeds limit" in refusal(path)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels(tmp_path, channels):
    path = stored(tmp_path, Image.fromarray(GREY))
    assert refusal(path, channels) == f"image files give 1 or 3 channels, but the network takes {channels}"


# A disk that fails is not a file that is damaged


def failing(monkeypatch, code: int, times: float) -> list[Path]:
    """Reads fail the first so many times; returns the list of them."""
    original, reads = Path.read_bytes, []

    def read_bytes(path: Path) -> bytes:
        reads.append(path)
        if len(reads) <= times:
            raise OSError(code, os.strerror(code))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(retry, "WAITS", (0, 0))
    return reads


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_an_error_that_passes(tmp_path, monkeypatch, code):
    path = stored(tmp_path, Image.fromarray(COLOUR))
    reads = failing(monkeypatch, code, 2)
    assert np.array_equal(read_image(path, 3), COLOUR) and len(reads) == 3


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOENT, errno.EISDIR])
def test_an_error_that_stays_is_no_corrupt_record(tmp_path, monkeypatch, code):
    """Else training would put its neighbour in its place, and count it to what is borne."""
    path = stored(tmp_path, Image.fromarray(COLOUR))
    failing(monkeypatch, code, 99)
    with pytest.raises(UserError, match=f"^{path}") as caught:
        read_image(path, 3)
    assert not isinstance(caught.value, CorruptRecord)


def test_what_was_read_and_is_no_image_is_corrupt(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(CorruptRecord):
        read_image(tmp_path / "text.png", 3)
