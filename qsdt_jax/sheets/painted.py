"""An image with its objects painted over it: tinted and outlined masks, boxes, names and scores."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qsdt_jax.data.geometry import Size
from qsdt_jax.evaluate.paste import pasted
from qsdt_jax.sheets.legend import LIGHTNESS

TINT = 0.42  # Share of a mask's colour, against the image below it.
SMALLEST_TEXT = 6  # Pixels.
DARK = 140  # Lightness below which text on a colour is white.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The N objects that are painted, the surest first.

    Attributes:
      boxes: (N, 4), x0, y0, x1, y1 in pixels of the image.
      scores: (N,); categories: (N,).
      shapes: (N, m, n), across each box the probability that it is covered.
    """

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    shapes: np.ndarray

    def scaled(self, ratio: tuple[float, float]) -> "Found":
        """In an image whose height and width are so many times as large."""
        down, across = ratio
        return dataclasses.replace(self, boxes=self.boxes * np.array([across, down, across, down]))


def resized(image: np.ndarray, found: Found, smallest: int, largest: int) -> tuple[np.ndarray, Found]:
    """The image with a longer side of `smallest` to `largest` pixels, and its objects there.

    Args:
      image: uint8 (H, W, C), grey or coloured.
      found: its objects.
      smallest, largest: in pixels.

    Returns:
      uint8 (h, w, 3), and the objects in its pixels.
    """
    height, width = image.shape[:2]
    ratio = min(max(max(height, width), smallest), largest) / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    if size != (width, height):
        picture = picture.resize(size, Image.Resampling.BOX if ratio < 1 else Image.Resampling.NEAREST)
    return np.asarray(picture), found.scaled((size[1] / height, size[0] / width))


def painted(
    image: np.ndarray, found: Found, class_names: Sequence[str], colors: np.ndarray, text_size: int
) -> Image.Image:
    """The picture, the surest objects on top.

    Args:
      image: uint8 (H, W, 3).
      found: its objects.
      class_names, colors: K each.
      text_size: in pixels; lines are as thick as those of letters.
    """
    height, width = image.shape[:2]
    line = max(1, round(text_size / 7))
    order = range(len(found.scores))[::-1]
    pixels = image.astype(np.float32)
    for i in order:
        color = colors[found.categories[i]].astype(np.float32)
        mask = pasted(found.shapes[i], found.boxes[i], (height, width))
        pixels[mask] += TINT * (color - pixels[mask])
        pixels[_edge(mask, line)] = color
    picture = Image.fromarray(np.round(pixels).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for i in order:
        x0, y0, x1, y1 = (round(float(side)) for side in found.boxes[i])
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        draw.rectangle(corners, outline=_rgb(colors[found.categories[i]]), width=line)
    for i in order:  # Last, so that no box crosses a name.
        category = int(found.categories[i])
        text = f"{class_names[category]} {100 * found.scores[i]:.0f} %"
        _label(draw, text, found.boxes[i], colors[category], text_size, (height, width))
    return picture


def _edge(mask: np.ndarray, line: int) -> np.ndarray:
    """The pixels of a mask that have a pixel of its outside, or of the image's, within so many pixels."""
    inner = np.pad(mask, 1)
    for _ in range(line):
        core = inner[1:-1, 1:-1]
        core = core & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = np.pad(core, 1)
    return mask & ~inner[1:-1, 1:-1]


def _label(
    draw: ImageDraw.ImageDraw, text: str, box: np.ndarray, color: np.ndarray, text_size: int, size: Size
) -> None:
    """A text on its colour above the box, or inside its upper edge where there is no room above.

    It is smaller where the image is too narrow for it.
    """
    font = ImageFont.load_default(text_size)
    longest = size[1] - 2
    if (long := draw.textlength(text, font=font)) > longest:
        font = ImageFont.load_default(max(SMALLEST_TEXT, int(text_size * longest / long)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(1, round((bottom - top) / 6))
    wide, tall = right - left + 2 * pad, bottom - top + 2 * pad
    x0, y0 = float(box[0]), float(box[1])
    x = int(min(max(x0, 0), max(0, size[1] - wide)))
    y = int(y0 - tall if y0 >= tall else min(max(y0, 0), max(0, size[0] - tall)))
    draw.rectangle((x, y, x + wide - 1, y + tall - 1), fill=_rgb(color))
    ink = "white" if color @ LIGHTNESS < DARK else "black"
    draw.text((x + pad - left, y + pad - top), text, font=font, fill=ink)


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in color)
    return red, green, blue
