"""Images and annotations as files, small, in the formats that users have."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.prepare.files import encoded, write_files

HEIGHT, WIDTH = 24, 36  # Of `encoded`.
NAMES = ("wall", "building, edifice", "sky")


def indices(seed: int, classes: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Numbers 0..classes of pixels, uint8 (H, W)."""
    return np.random.default_rng(seed).integers(0, classes, (height, width), np.uint8, endpoint=True)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """A PNG of Pillow's; mode "P" keeps the numbers and gives them colours."""
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = Image.frombytes("P", picture.size, pixels.tobytes())
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def png_of_depth(pixels: np.ndarray, depth: int, colour: int = 0) -> bytes:
    """A PNG of 1, 2, 4, 8 or 16 bits a pixel, grey (colour 0), made by hand from its specification."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width = pixels.shape
    rows = b""
    for row in pixels:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def table(names: tuple[str, ...] = NAMES) -> bytes:
    """objectInfo150.txt."""
    rows = [f"{i}\t0.1\t10\t1\t1\t{name}" for i, name in enumerate(names, start=1)]
    return "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows, ""]).encode()


def ade20k(root: Path, training: int = 5, validation: int = 2) -> None:
    """ADE20K of three classes."""
    for split, number, start in (("training", training, 0), ("validation", validation, 100)):
        for i in range(number):
            name = f"ADE_{split}_{i + 1:08d}"
            files = {
                f"images/{split}/{name}.jpg": encoded(start + i),
                f"annotations/{split}/{name}.png": png(indices(start + i, 3)),
            }
            write_files(root, files)
    write_files(root, {"objectInfo150.txt": table(), "sceneCategories.txt": b"ADE_train_00000001 street\n"})


def segfolder(root: Path, train: int = 4, val: int = 2) -> None:
    """A pair of folders with the classes cat, dog; 255 is ignored."""
    for split, number, start in (("train", train, 0), ("val", val, 100)):
        for i in range(number):
            mask = indices(start + i, 2)
            mask[mask == 2] = 255
            write_files(
                root, {f"images/{split}/{i}.jpg": encoded(start + i), f"masks/{split}/{i}.png": png(mask)}
            )
    write_files(root, {"classes.txt": b"cat\ndog\n"})
