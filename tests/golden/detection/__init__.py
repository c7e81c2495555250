"""What libraries of detection compute, in float64, in the files of this folder.

Of torchvision 0.29.1 and mmdetection 3.1: `boxes`, `nms`, `matcher` (with low quality from 0.3 or 0.5, which
mmdetection has), `roi_align` (2 x 2 samples a bin), `masks` (28 x 28 targets of whole bitmaps). By formula:
`anchors`. Of the published detector: `sampled`, which of the candidates (the boxes, then the proposals) are
positive, and the ground truth of each. Boxes are (x0, y0, x1, y1), features NCHW.

Gradients of RoIAlign are those of sum(output * cotangent), with a cotangent drawn by its name (`drawn`).
"""

import zlib
from pathlib import Path

import numpy as np

SEED = 41


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name(f"{name}.npz")) as file:
        return dict(file)


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([SEED, zlib.crc32(name.encode())]).standard_normal(shape)
