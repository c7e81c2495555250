"""A bundle read and run with NumPy alone: what a deployed network is, without JAX and without this project.

This file can be copied anywhere. It gives the logits of the integer form, bit for bit: products of integers
are exact in any order, and every real operation is one rounded float32 operation.

Layout of a bundle (`model.qsdt`), all numbers little-endian:

    8 bytes   magic "\\x89QSDT\\r\\n\\x1a"
    4 bytes   version of the format
    4 bytes   length of the manifest
    4 bytes   crc32 of the 8 bytes before and of the manifest
    manifest  JSON: architecture, neuron, classes, image, steps, outputs, and of each tensor offset and crc32
    data      from the next multiple of 64: tensors, each at a multiple of 4

A step is a dictionary; its result is known by its name, the images are called "images". "outputs" tells by
name which results, averaged over the time steps, are the answers; without it the last result is the "logits":

    {"kind": "linear", "name", "input", "spikes", "stride", "padding", "groups", "weights", "scale", "shift"}
        convolution of spike counts or real values with integer weights, times scale, plus shift
    {"kind": "fire", "name", "input"}        spike counts of real values, times "input_gain" if it is there
    {"kind": "attend", "name", "q", "k", "v", "heads", "scale"}     scale * q (k^T v) on counts; with "tokens"
        the scale of an image of N tokens is scale * (tokens / N)
    {"kind": "add", "name", "left", "right"}
    {"kind": "pool", "name", "input"}        mean over the pixels
    {"kind": "resize", "name", "input", "factor"}      each pixel repeated along both axes
    {"kind": "bilinear", "name", "input"}    twice the pixels, 3/4 of the nearest and 1/4 of the next one

A tensor is {"offset", "shape", "crc32"}, the offset counted from the start of the data. Scale and shift are
float32. Weights are packed integers of "bits" bits, those of the step or else of the manifest, in two's
complement, lowest bit first, without gaps: at 4 bits two to a byte, the first in the low half. One-bit
weights are -1 (bit 0) and +1 (bit 1).

Images that are shown whole are scaled to "short_side" or "long_side" and padded into the smallest of
the "buckets" [height, width] of "image" that holds them; without any, into multiples of half of its "size".

Version 2 adds bits by step, "bilinear", "tokens", "input_gain"; 3 float32 weights of 32 "bits"; 4 "programs",
parts of a detector, each with "steps" and "outputs", which are read, but not run, here.
"""

import contextlib
import json
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MAGIC = b"\x89QSDT\r\n\x1a"
VERSION = 4
HEADER_BYTES = 20
ALIGNMENT = 64
FLOAT = 32  # Bits of float weights.
STRIDE = 16  # Pixels of the image, along each axis, to a token.
LARGEST_TIMESTEPS = 1024

Manifest = dict[str, Any]


# --- Reading --------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of a bundle, each tensor in it replaced by its array: int8 weights, float32 scales.

    Each "linear" step has its own "bits".

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no bundle, of a newer version, truncated, damaged or not understood; it says which.
    """
    with open(path, "rb") as file:
        content = file.read()
    manifest, data = split(content)
    with manifest_errors():
        for step in (s for part in manifest.get("programs", {"": manifest}).values() for s in part["steps"]):
            if step["kind"] == "linear":
                bits = step["bits"] = step["bits"] if "bits" in step else manifest["bits"]
                floats = bits == FLOAT and step["spikes"]
                if type(bits) is not int or not (1 <= bits <= 8 or floats):
                    raise ValueError(f"weights of {bits!r} bits; expected 1 to 8, or {FLOAT} of spikes")
                for name in ("weights", "scale", "shift"):
                    packed = bits if name == "weights" and not floats else 0
                    step[name] = _tensor(data, step[name], packed, f"{name} of {step['name']}")
    return manifest


@contextlib.contextmanager
def manifest_errors() -> Iterator[None]:
    """Makes a ValueError of the error inside where a manifest lacks something or has it of another type."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"its manifest is not that of a bundle ({type(error).__name__}: {error})") from None


def split(content: bytes) -> tuple[Manifest, memoryview]:
    """The manifest and the data of a bundle's bytes; raises ValueError as `read`."""
    if not content.startswith(MAGIC):
        raise ValueError("not a bundle of this format: its first bytes are others")
    if len(content) < HEADER_BYTES:
        raise ValueError(f"truncated: {len(content)} bytes, less than the header's {HEADER_BYTES}")
    version, length, checksum = (int.from_bytes(content[i : i + 4], "little") for i in (8, 12, 16))
    text = content[HEADER_BYTES : HEADER_BYTES + length]
    if len(text) == length and zlib.crc32(text, zlib.crc32(content[8:16])) == checksum:
        if version > VERSION:
            raise ValueError(f"written in version {version} of the format; this reader knows up to {VERSION}")
        with manifest_errors():
            manifest = json.loads(text)
    elif len(text) < length:
        raise ValueError(f"truncated: {len(content)} bytes, but its manifest alone would have {length}")
    else:
        raise ValueError("damaged: the checksum of its manifest is wrong")
    start = aligned(HEADER_BYTES + length, ALIGNMENT)
    with manifest_errors():
        found, expected = len(content), start + manifest["data_bytes"]
    if found != expected:
        what = "truncated" if found < expected else "damaged"
        raise ValueError(f"{what}: {found} bytes, expected {expected}")
    return manifest, memoryview(content)[start:]


def aligned(size: int, to: int) -> int:
    """The next multiple of `to`."""
    return -(-size // to) * to


def _tensor(data: memoryview, record: Manifest, bits: int, name: str) -> np.ndarray:
    """An array from the data; bits of an integer, 0 for float32."""
    shape, offset = tuple(record["shape"]), record["offset"]
    if not all(type(number) is int and number >= 0 for number in (*shape, offset)):
        raise ValueError(f"shape {list(shape)} and offset {offset!r} of the {name}; expected whole numbers")
    count = math.prod(shape)
    size = -(-count * bits // 8) if bits else 4 * count
    if offset + size > len(data):
        raise ValueError(f"the {name} would end {offset + size - len(data)} bytes behind the data")
    part = data[offset : offset + size]
    if zlib.crc32(part) != record["crc32"]:
        raise ValueError(f"damaged: the checksum of the {name} is wrong")
    if bits:
        return unpack(np.frombuffer(part, np.uint8), count, bits).reshape(shape)
    return np.frombuffer(part, "<f4").astype(np.float32).reshape(shape)


def unpack(data: np.ndarray, count: int, bits: int) -> np.ndarray:
    """`count` integers as int8 from packed bytes (uint8)."""
    digits = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    if bits == 1:
        return (2 * digits[:, 0].astype(np.int8) - 1).astype(np.int8)
    places = 2 ** np.arange(bits, dtype=np.int16)
    places[-1] *= -1  # Two's complement.
    return (digits @ places).astype(np.int8)


# --- Forward --------------------------------------------------------------------------------------------


def forward(bundle: Manifest, images: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """Class scores.

    Args:
      bundle: from `read`.
      images: float32 (B, H, W, C), shown in every time step, or (B, T, H, W, C) frames; normalised as the
        bundle says, H and W multiples of 16.
      sizes: whole numbers (B, 2), height and width of each image in pixels, at the top left; the rest is
        padding, zeros after normalising. None where there is no padding.

    Returns:
      (B, K) float32 logits of the images, or (B, H', W', K) of their pixels.
    """
    return class_scores(bundle, run(bundle, images, sizes))


def class_scores(bundle: Manifest, values: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of `forward` from the values of `run`."""
    y = answers(bundle, values)["logits"]
    return y[:, 0, 0] if y.shape[1:3] == (1, 1) else y


def answers(bundle: Manifest, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(B, H, W, C) of each output, the mean over the time steps, from the values of `run`."""
    timesteps, found = bundle["neuron"]["timesteps"], {}
    for name, value in outputs_of(bundle).items():
        steps = values[value].reshape(-1, timesteps, *values[value].shape[1:])
        total = sum((steps[:, t] for t in range(1, timesteps)), steps[:, 0])
        found[name] = total * np.float32(1 / timesteps)
    return found


def outputs_of(bundle: Manifest) -> dict[str, str]:
    """The name of the value behind each output."""
    return bundle.get("outputs") or {"logits": bundle["steps"][-1]["name"]}


def run(bundle: Manifest, images: np.ndarray, sizes: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every value of the network by name, all float32; arguments as for `forward`."""
    if "programs" in bundle:
        raise ValueError("a detector, which is not run by NumPy; expected a network with logits")
    timesteps = bundle["neuron"]["timesteps"]
    if not 1 <= timesteps <= LARGEST_TIMESTEPS:
        raise ValueError(f"{timesteps} time steps; expected 1 to {LARGEST_TIMESTEPS}")
    if images.ndim == 4:
        images = np.repeat(images[:, None], timesteps, axis=1)
    if sizes is not None:
        sizes = np.repeat(sizes, timesteps, axis=0)
    values = {"images": images.reshape(-1, *images.shape[2:]).astype(np.float32)}
    for step in bundle["steps"]:
        values[step["name"]] = _run(step, values, bundle["neuron"], sizes)
    return values


def _run(
    step: Manifest, values: dict[str, np.ndarray], neuron: Manifest, sizes: np.ndarray | None
) -> np.ndarray:
    match step["kind"]:
        case "linear":
            y = _product(values[step["input"]], step, neuron["levels"])
            return y * step["scale"] + step["shift"]
        case "fire":
            x, gain = values[step["input"]], step.get("input_gain", 1.0)
            return _fire(x if gain == 1 else x * np.float32(gain), **neuron)
        case "attend":
            return _attend(values[step["q"]], values[step["k"]], values[step["v"]], step, sizes)
        case "add":
            return values[step["left"]] + values[step["right"]]
        case "pool":
            return _mean(values[step["input"]])
        case "resize":
            return values[step["input"]].repeat(step["factor"], axis=1).repeat(step["factor"], axis=2)
        case "bilinear":
            return _doubled(_doubled(values[step["input"]], 1), 2)
        case other:
            raise ValueError(f"unknown kind of step {other!r}")


def _product(x: np.ndarray, step: Manifest, levels: int) -> np.ndarray:
    """Real values, or else float weights, are cut into digits so short that sums of products are exact."""
    weights = step["weights"].astype(np.float32)
    terms = math.prod(weights.shape[:3])
    if not step["spikes"]:
        digits, unit, base = _digits(x, (1, 2, 3), terms * 2 ** (step["bits"] - 1))
        return _join([_convolve(digit, weights, step) for digit in digits], unit, base)
    if step["bits"] == FLOAT:
        digits, unit, base = _digits(weights, (0, 1, 2), terms * levels, widest=7)
        return _join([_convolve(x, digit, step) for digit in digits], unit, base)
    return _convolve(x, weights, step)


def _convolve(x: np.ndarray, weights: np.ndarray, step: Manifest) -> np.ndarray:
    """A sum over taps. All numbers are whole and below 2^24, so float32 sums are exact."""
    kh, kw, _, outputs = weights.shape
    p, s = step["padding"], step["stride"]
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    height, width = ((size - k) // s + 1 for size, k in zip(x.shape[1:3], (kh, kw), strict=True))
    y = np.zeros((x.shape[0], height, width, outputs), np.float32)
    for i in range(kh):
        for j in range(kw):
            seen = x[:, i : i + (height - 1) * s + 1 : s, j : j + (width - 1) * s + 1 : s]
            if step["groups"] == 1:
                y += seen @ weights[i, j]
            else:  # Depthwise: one filter a channel.
                y += seen * weights[i, j, 0]
    return y


def _mean(x: np.ndarray) -> np.ndarray:
    count = x.shape[1] * x.shape[2]
    digits, unit, base = _digits(x, (1, 2), count)
    sums = [np.asarray(np.sum(digit, (1, 2), np.float32, keepdims=True)) for digit in digits]
    return _join(sums, unit, base) * np.float32(1 / count)


def _digits(x: np.ndarray, axes: tuple[int, ...], terms: int, widest: int = 12) -> tuple:
    """x = unit * (... + digits[-2] * base + digits[-1]), rounded; values along `axes` have one unit.

    Sums of `terms` digits of at most `widest` bits, each at most base / 2, stay below 2^24.
    """
    width = min(widest, 25 - (terms - 1).bit_length())
    count = -(-24 // width)
    _, exponent = np.frexp(np.maximum(np.abs(x).max(axes, keepdims=True), np.float32(2.0**-64)))
    unit = np.ldexp(np.float32(1), exponent + 1 - count * width)
    rest, digits = np.rint(x / unit), []
    for i in reversed(range(1, count)):
        place = np.float32(2.0 ** (i * width))
        digits.append(np.rint(rest / place))
        rest = rest - digits[-1] * place
    return [*digits, rest], unit, np.float32(2.0**width)


def _join(sums: list[np.ndarray], unit: np.ndarray, base: np.float32) -> np.ndarray:
    total = sums[0]
    for digit in sums[1:]:
        total = total * base + digit
    return total * unit


def _fire(
    x: np.ndarray, *, levels: int, scale: float, threshold: float, timesteps: int, decay: float, reset: str
) -> np.ndarray:
    """Counts 0..levels; the membrane lives through the time steps of an image."""
    currents = x.reshape(-1, timesteps, *x.shape[1:])
    counts, membrane = np.empty_like(currents), np.zeros_like(currents[:, 0])
    for t in range(timesteps):
        membrane = membrane + currents[:, t]
        v = np.float32(scale) * membrane
        if threshold != 0.5:
            v = v - np.float32(threshold - 0.5)
        counts[:, t] = np.floor(np.clip(v, np.float32(0), np.float32(levels)) + np.float32(0.5))
        if reset == "hard":
            membrane = np.where(counts[:, t] > 0, np.float32(0), membrane)
        else:
            membrane = membrane - counts[:, t] * np.float32(1 / scale)
        membrane = np.float32(decay) * membrane
    return counts.reshape(x.shape)


def _doubled(x: np.ndarray, axis: int) -> np.ndarray:
    """Twice the pixels along an axis: each becomes two, 3/4 of it and 1/4 of its neighbour on that side."""
    first, last = np.take(x, [0], axis), np.take(x, [-1], axis)
    three = (x + x) + x
    neighbours = (
        np.concatenate([first, np.delete(x, -1, axis)], axis),
        np.concatenate([np.delete(x, 0, axis), last], axis),
    )
    pairs = np.stack([(three + other) * np.float32(0.25) for other in neighbours], axis + 1)
    return pairs.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def _attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, step: Manifest, sizes: np.ndarray | None
) -> np.ndarray:
    n, height, width, channels = q.shape
    scale, tokens = np.float32(step["scale"]), np.full((n, 1, 1, 1), height * width)
    if sizes is not None:
        valid = _valid_tokens(sizes, height, width)
        k, tokens = k * valid, valid.sum((1, 2, 3), keepdims=True)
    if step.get("tokens"):
        scale = scale * (np.float32(step["tokens"]) / tokens.astype(np.float32))
    split = (x.reshape(n, -1, step["heads"], channels // step["heads"]).swapaxes(1, 2) for x in (q, k, v))
    q, k, v = (x.astype(np.float64) for x in split)  # Exact for images of any size.
    y = (q @ (k.swapaxes(-1, -2) @ v)).swapaxes(1, 2)
    return y.reshape(n, height, width, channels).astype(np.float32) * scale


def _valid_tokens(sizes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, height, width, 1), whether the top left pixel of a token lies in its image."""
    sizes = np.maximum(sizes, 1)
    rows, columns = (STRIDE * np.arange(n) < sizes[:, i, None] for i, n in enumerate((height, width)))
    return (rows[:, :, None] & columns[:, None, :])[..., None]
