"""What is behind the digits of a scene: a texture, and shapes to draw on it that are no digits."""

import numpy as np
from PIL import Image, ImageDraw

SHADES = (20, 110)  # Of a texture, before noise.
CELLS = (2, 5, 12, 40)  # Cells of a texture's noise along the shorter side, one scale after the other.
FINER = 4  # Shapes are drawn so many times larger and scaled down, which smooths their edges.
# Capital letters that no digit resembles, as lines through points (right, down) of the unit square.
LETTERS = {
    "A": (((0, 1), (0.5, 0), (1, 1)), ((0.22, 0.6), (0.78, 0.6))),
    "E": (((1, 0), (0, 0), (0, 1), (1, 1)), ((0, 0.5), (0.8, 0.5))),
    "F": (((1, 0), (0, 0), (0, 1)), ((0, 0.5), (0.8, 0.5))),
    "H": (((0, 0), (0, 1)), ((1, 0), (1, 1)), ((0, 0.5), (1, 0.5))),
    "K": (((0, 0), (0, 1)), ((1, 0), (0, 0.5), (1, 1))),
    "M": (((0, 1), (0, 0), (0.5, 0.6), (1, 0), (1, 1)),),
    "N": (((0, 1), (0, 0), (1, 1), (1, 0)),),
    "T": (((0, 0), (1, 0)), ((0.5, 0), (0.5, 1))),
    "V": (((0, 0), (0.5, 1), (1, 0)),),
    "W": (((0, 0), (0.25, 1), (0.5, 0.4), (0.75, 1), (1, 0)),),
    "X": (((0, 0), (1, 1)), ((1, 0), (0, 1))),
    "Y": (((0, 0), (0.5, 0.5), (1, 0)), ((0.5, 0.5), (0.5, 1))),
}


def texture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture of smooth noise at several scales on a gradient between two colours, float (H, W, 3), 0..255.

    The noise is mostly of brightness, which the three colours share.
    """
    first, second = generator.uniform(*SHADES, (2, 3))
    angle = generator.uniform(0, 2 * np.pi)
    down, right = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    share = 0.5 + 0.35 * (np.cos(angle) * down + np.sin(angle) * right)
    picture = first + share[..., None] * (second - first)
    for cells in CELLS:
        strength = generator.uniform(2, 12)
        rows, columns = (round(cells * side / min(height, width)) for side in (height, width))
        brightness = _smooth(generator.standard_normal((rows, columns)), height, width)
        colour = [_smooth(generator.standard_normal((rows, columns)), height, width) for _ in range(3)]
        picture += strength * (brightness[..., None] + 0.5 * np.stack(colour, -1))
    return np.clip(picture, 0, 255)


def _smooth(noise: np.ndarray, height: int, width: int) -> np.ndarray:
    grid = Image.fromarray(noise.astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float64)


def clutter(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The share of each pixel that a stroke, a filled blob or a letter covers, (H, W); never 0 everywhere."""
    size = (width * FINER, height * FINER)
    picture = Image.new("L", size)
    draw = ImageDraw.Draw(picture)
    match generator.choice(("stroke", "blob", "letter")):
        case "stroke":
            points = generator.uniform(0, 1, (4, 2)) * size
            _line(draw, _curve(points), generator.uniform(1, 3))
        case "blob":
            angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 9)))
            radii = generator.uniform(4, 14, len(angles))[:, None] * FINER
            middle = generator.uniform(0.2, 0.8, 2) * size
            corners = middle + radii * np.stack([np.cos(angles), np.sin(angles)], -1)
            draw.polygon([tuple(corner) for corner in corners], fill=255)
        case "letter":
            tall = generator.uniform(14, 48) * FINER
            wide = tall * generator.uniform(0.6, 0.9)
            corner = generator.uniform(0, 1, 2) * np.maximum(np.subtract(size, (wide, tall)), 1)
            thickness = tall / FINER * generator.uniform(0.06, 0.14)
            for line in LETTERS[str(generator.choice(list(LETTERS)))]:
                points = np.array(line, float) + generator.uniform(-0.06, 0.06, (len(line), 2))
                _line(draw, corner + points * (wide, tall), thickness)
    small = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float64) / 255


def _curve(points: np.ndarray) -> np.ndarray:
    """The Bézier curve of four points, as 40 of its own."""
    t = np.linspace(0, 1, 40)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return sum((w * point for w, point in zip(weights, points, strict=True)), np.zeros(2))


def _line(draw: ImageDraw.ImageDraw, points: np.ndarray, thickness: float) -> None:
    """A line through points (right, down) on the enlarged canvas; its thickness is in pixels of the scene."""
    draw.line([tuple(p) for p in points], fill=255, width=max(1, round(thickness * FINER)), joint="curve")
