"""Files as users have them, small: odd images, ImageNet in its layouts, pickles of CIFAR, event streams."""

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 24, 36


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture with smooth colours, so that JPEG keeps it, uint8 (H, W, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(seed: int, form: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    """The content of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def sideways(seed: int) -> bytes:
    """A JPEG whose EXIF says that it is to be turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(seed, exif=exif)


# Decodable, and not everyday: what the real ImageNet has, and what a folder of images may have.
ODDITIES = {
    "cmyk.JPEG": encoded(1, mode="CMYK"),
    "grey.JPEG": encoded(2, mode="L"),
    "png_in_disguise.JPEG": encoded(3, "PNG"),
    "png_with_alpha.JPEG": encoded(4, "PNG", "RGBA"),
    "png_with_palette.JPEG": encoded(5, "PNG", "P"),
    "sideways.JPEG": sideways(6),
    "progressive.JPEG": encoded(7, progressive=True),
}
# What no decoder reads as a whole.
BROKEN = {
    "cut_off.JPEG": encoded(8)[:-50],
    "empty.JPEG": b"",
    "text.JPEG": b"404 not found",
    "cut_off_png.JPEG": encoded(9, "PNG")[:300],
}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files and the folders that they need."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def class_folder(folder: Path, classes: tuple[str, ...], images: int, seed: int = 0) -> None:
    """`images` JPEGs in a folder for each class."""
    for label, name in enumerate(classes):
        files = {f"{name}/{i}.JPEG": encoded(seed + 1000 * label + i) for i in range(images)}
        write_files(folder, files)


def tar_of(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# ImageNet: three of its classes, in an order that is not the one of the development kit.

WNIDS = ("n01440764", "n02087122", "n03769881")
TRAIN = {wnid: {f"{wnid}_{i}.JPEG": encoded(100 * k + i) for i in range(4)} for k, wnid in enumerate(WNIDS)}
VALIDATION = {f"ILSVRC2012_val_{i:08d}.JPEG": encoded(900 + i) for i in range(1, 6)}
TRUTH = ("n03769881", "n01440764", "n01440764", "n02087122", "n03769881")
KIT_NUMBERS = {"n02087122": 1, "n03769881": 2, "n01440764": 3, "n00001740": 4}  # The last one has children.


def train_tar() -> bytes:
    """ILSVRC2012_img_train.tar."""
    return tar_of({f"{wnid}.tar": tar_of(files) for wnid, files in TRAIN.items()})


def train_folder() -> dict[str, bytes]:
    """The same, unpacked."""
    return {f"train/{wnid}/{name}": x for wnid, files in TRAIN.items() for name, x in files.items()}


def kit() -> dict[str, bytes]:
    """The files of the development kit that count."""
    fields = [
        ("ILSVRC2012_ID", float),
        *((name, object) for name in ("WNID", "words", "gloss")),
        ("num_children", float),
        ("children", object),
        *((name, float) for name in ("wordnet_height", "num_train_images")),
    ]
    rows = [
        (number, wnid, "words", "gloss", 3 * (wnid == "n00001740"), np.arange(3), 0, 1300)
        for wnid, number in KIT_NUMBERS.items()
    ]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, fields)[:, None]})
    truth = "".join(f"{KIT_NUMBERS[wnid]}\n" for wnid in TRUTH)
    return {
        "ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
        "ILSVRC2012_devkit_t12/readme.txt": b"",
    }


# CIFAR: pickles as Python 2 wrote them.


def python2_pickle(value: object) -> bytes:
    """A pickle of protocol 2 whose texts are byte strings and whose arrays name NumPy 1."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: object) -> bytes:
    match value:
        case dict():
            return b"}(" + b"".join(_opcodes(k) + _opcodes(v) for k, v in value.items()) + b"u"
        case list():
            return b"](" + b"".join(map(_opcodes, value)) + b"e"
        case int():
            return b"J" + struct.pack("<i", value)
        case bytes():
            return b"T" + struct.pack("<I", len(value)) + value
        case np.ndarray():
            shape = b"".join(map(_opcodes, value.shape))
            uint8 = (
                b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            )
            empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
            state = b"(K\x01(" + shape + b"t" + uint8 + b"I00\n" + _opcodes(value.tobytes()) + b"tb"
            return empty + state
    raise TypeError(type(value))


# CIFAR10-DVS

AEDAT_HEADER = (
    b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"
    b"# Data format is int32 address, int32 timestamp (8 bytes total), repeated for each event\r\n"
    b"# Timestamps tick is 1 us\r\n"
)


def aedat(addresses: list[int], times: list[int]) -> bytes:
    """A recording in AEDAT 2.0."""
    events = (struct.pack(">II", address, time) for address, time in zip(addresses, times, strict=True))
    return AEDAT_HEADER + b"".join(events)


def five_bytes(events: list[tuple[int, int, int, int]]) -> bytes:
    """Events (t, x, y, p) as N-MNIST has them: column, row, then the polarity and 23 bits of microseconds."""
    return b"".join(struct.pack(">BBI", x, y, p << 31 | t << 8)[:5] for t, x, y, p in events)
