"""What timm 1.0.31 and torchvision make of two images, in `augment.npz`.

* `image` (48, 64, 3), `grey` (300, 400): the inputs; `boxes`: rows (top, left, height, width) within `grey`.
* `OPERATION/LEVEL`: that operation on `image` with the fill colour FILL; the level is ten times too large.
* `resized_crop/K`: box K of `grey` resized to 224x224; `eval`: `grey` scaled to a short side of 256, and the
  centre 224x224; `eval_upscaled`: the same of `image`.

Of every result the file holds each eleventh value, the checksum of all, and the version of Pillow.
"""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import PIL

FILL = (124, 116, 104)
STRIDE = 11


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """The entries of the file."""
    with np.load(Path(__file__).with_name("augment.npz")) as file:
        return dict(file)


def names(kind: str) -> list[str]:
    """The results whose name begins so."""
    return [name for name in _checksums() if name.startswith(kind)]


def assert_golden(name: str, pixels: np.ndarray) -> None:
    """Equal with the same Pillow, and within one level with any."""
    expected = golden()[name]
    assert pixels.dtype == np.uint8
    found = pixels.reshape(-1)[::STRIDE]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    if PIL.__version__ == golden()["pillow"]:
        assert zlib.crc32(np.ascontiguousarray(pixels).tobytes()) == _checksums()[name]


def _checksums() -> dict[str, int]:
    return json.loads(str(golden()["crc32"]))
