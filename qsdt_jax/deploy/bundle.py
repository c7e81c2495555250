"""The bundle: a deployed network in one file, `model.qsdt`. Its layout is described in `deploy.reference`."""

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from qsdt_jax import bounds
from qsdt_jax.core.neurons import Neuron, Reset
from qsdt_jax.data.dense.buckets import Buckets
from qsdt_jax.data.events.frames import Slicing
from qsdt_jax.data.geometry import Size
from qsdt_jax.deploy import reference
from qsdt_jax.deploy.detector import FoldedDetector, check_folded, require_parts
from qsdt_jax.deploy.image_record import HUGE, TINY, buckets_of, check_image, within
from qsdt_jax.deploy.packing import layer_bytes, pack
from qsdt_jax.deploy.program import (
    LOGITS,
    Add,
    Attend,
    Bilinear,
    DepthToSpace,
    Fire,
    Linear,
    Pool,
    Program,
    Resize,
    Step,
    Subsample,
)
from qsdt_jax.deploy.search import record_of, settings_of
from qsdt_jax.deploy.validity import check_counts
from qsdt_jax.detection.inference import Settings
from qsdt_jax.errors import UserError
from qsdt_jax.files import write_atomically
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.lowering import ConvGeometry

KINDS: dict[str, type[Step]] = {
    "linear": Linear,
    "fire": Fire,
    "attend": Attend,
    "add": Add,
    "pool": Pool,
    "resize": Resize,
    "bilinear": Bilinear,
    "depth_to_space": DepthToSpace,
    "subsample": Subsample,
}
# What of a neuron inference needs; the step of a spike is in the scales, the surrogate is training's.
NEURON_FIELDS = ("levels", "scale", "threshold", "timesteps", "decay", "reset")
OLDEST, BITS_BY_STEP, FLOAT_WEIGHTS, OF_DETECTORS = 1, 2, 3, 4  # Versions of the format.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """A deployed network and how to feed and read it.

    Attributes:
      program: the folded network, or the parts of a detector.
      class_names: one for each channel of the logits, or for each category of a detector.
      image_size: (height, width) in pixels that it was trained at.
      crop_ratio: share of height and width that is cut out of an image scaled to cover that.
      buckets: how images are shown whole, where their pixels are classified or objects found; None where an
        image is cropped. Bundles of segmenters had none before.
      mean, std: of pixels in 0..1, one number or one for each channel.
      architecture: numbers of the network, for people.
      origin: where it came from, for people.
      settings: of a detector's search for objects.
      slicing: how events become frames, see `data.events.frames.make_frames`; None for images and in
        older files.
    """

    program: Program | FoldedDetector
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    crop_ratio: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: Mapping[str, Any]
    origin: Mapping[str, Any]
    buckets: Buckets | None = None
    settings: Settings | None = None
    slicing: Slicing | None = None

    def require_program(self, what: str) -> Program:
        """The one program of a network with logits; raises UserError for a detector, which has no `what`."""
        if isinstance(self.program, FoldedDetector):
            raise UserError(f"a detector has no {what}; expected a network that classifies images or pixels")
        return self.program


def write_bundle(path: str | os.PathLike[str], bundle: Bundle) -> int:
    """Writes a bundle; after a crash either the old or the new file is there.

    Returns:
      Bytes of the file.

    Raises:
      UserError: it cannot be written.
    """
    content = _content(bundle)
    write_atomically(Path(path), content)
    return len(content)


def bundle_bytes(bundle: Bundle) -> dict[str, int]:
    """Bytes of the file by what they hold; together they are the file."""
    program = bundle.program
    layers = map(layer_bytes, program.layers)
    weights, scales = (sum(part) for part in zip(*layers, strict=True))
    rest = len(_content(bundle)) - weights - scales
    return {"weights": weights, "scales and shifts": scales, "manifest": rest}


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Reads a bundle.

    Raises:
      UserError: the file cannot be read, is no bundle, of a newer version, truncated, damaged, or made by a
        program that understands the format otherwise; or it holds a network that cannot be run.
    """
    try:
        manifest = reference.read(path)
        with reference.manifest_errors():
            bundle = _from_manifest(manifest)
            check_folded(bundle.program, sizes_shown(bundle.image_size, bundle.buckets))
        found, expected = len(bundle.class_names), bundle.program.num_classes
        if found != expected:
            raise ValueError(f"{found} class names, but {expected} class scores")
        return bundle
    except OSError as error:
        raise UserError(f"bundle {path} cannot be read: {error.strerror}") from None
    except (ValueError, UserError) as error:
        raise UserError(f"bundle {path}: {error}") from None


def _content(bundle: Bundle) -> bytes:
    tensors = _Tensors()
    program = bundle.program
    alike = len(program.bits) == 1
    neuron = dataclasses.asdict(program.neuron)
    manifest = {
        "architecture": dict(bundle.architecture),
        "origin": dict(bundle.origin),
        **({"bits": program.bits[0]} if alike else {}),
        "neuron": {name: neuron[name] for name in NEURON_FIELDS},
        "classes": list(bundle.class_names),
        "image": {
            "size": list(bundle.image_size),
            "crop_ratio": bundle.crop_ratio,
            "channels": program.in_channels,
            "mean": list(bundle.mean),
            "std": list(bundle.std),
            **({} if bundle.buckets is None else _whole(bundle.buckets)),
            **({} if bundle.slicing is None else {"slicing": bundle.slicing}),
        },
    }
    if isinstance(program, FoldedDetector):
        assert bundle.settings is not None
        manifest["detector"] = record_of(bundle.settings)
        manifest["programs"] = {name: _records(part, tensors, alike) for name, part in program.parts.items()}
    else:
        manifest |= _records(program, tensors, alike)
    manifest["data_bytes"] = len(tensors.data)
    text = json.dumps(manifest, separators=(",", ":")).encode()
    head = _version(manifest).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    checksum = zlib.crc32(text, zlib.crc32(head)).to_bytes(4, "little")
    start = reference.MAGIC + head + checksum + text
    return start.ljust(reference.aligned(len(start), reference.ALIGNMENT), b"\0") + tensors.data


def _records(program: Program, tensors: "_Tensors", alike: bool) -> dict[str, Any]:
    """What the manifest says of the steps and outputs of a program."""
    steps = [_record(step, tensors, alike) for step in program.steps]
    return {"steps": steps, "outputs": dict(program.outputs)}


def sizes_shown(image_size: Size, buckets: Buckets | None) -> tuple[Size, ...]:
    """Sizes of arrays that a program has to run on: that of training and the largest of evaluation."""
    largest = None if buckets is None else buckets.largest
    return (image_size,) if largest is None else (image_size, largest)


def _whole(buckets: Buckets) -> dict[str, Any]:
    """What the manifest says of images that are shown whole; the grid of buckets follows from the size."""
    sides = {"short_side": buckets.short_side, "long_side": buckets.long_side}
    return {**sides, "buckets": [list(size) for size in buckets.sizes]}


def _version(manifest: Mapping[str, Any]) -> int:
    """The oldest version of the format that has all of this: readers of then take what they can read."""
    if "programs" in manifest:
        return OF_DETECTORS
    steps = manifest["steps"]
    if FLOAT_BITS in {manifest.get("bits"), *(step.get("bits") for step in steps)}:
        return FLOAT_WEIGHTS
    newer = "bits" not in manifest or any(
        step["kind"] == "bilinear" or "tokens" in step or "input_gain" in step for step in steps
    )
    return BITS_BY_STEP if newer else OLDEST


class _Tensors:
    """The data of a bundle, tensor by tensor."""

    def __init__(self):
        self.data = bytearray()

    def add(self, shape: Sequence[int], content: bytes) -> dict[str, Any]:
        """Appends a tensor and returns its record."""
        record = {"offset": len(self.data), "shape": list(shape), "crc32": zlib.crc32(content)}
        self.data += content.ljust(reference.aligned(len(content), 4), b"\0")
        return record


def _record(step: Step, tensors: _Tensors, alike: bool) -> dict[str, Any]:
    """What the manifest says of a step: all but defaults, and bits that are alike in all layers."""
    kind = next(name for name, kind in KINDS.items() if isinstance(step, kind))
    fields = {
        field.name: getattr(step, field.name)
        for field in dataclasses.fields(step)
        if field.default is dataclasses.MISSING or getattr(step, field.name) != field.default
    }
    if isinstance(step, Linear):
        del fields["geometry"]
        if alike:
            del fields["bits"]
        fields |= dataclasses.asdict(step.geometry)
        content = (
            np.asarray(step.weights, "<f4").tobytes()
            if step.bits == FLOAT_BITS
            else pack(np.asarray(step.weights), step.bits)
        )
        fields["weights"] = tensors.add(step.weights.shape, content)
        for name, vector in (("scale", step.scale), ("shift", step.shift)):
            fields[name] = tensors.add(vector.shape, np.asarray(vector, "<f4").tobytes())
    return {"kind": kind, **fields}


def _from_manifest(manifest: dict[str, Any]) -> Bundle:
    """The bundle of a manifest; raises ValueError where it says what cannot be."""
    count = sum(len(part["steps"]) for part in manifest.get("programs", {"": manifest}).values())
    if count > bounds.STEPS_OF_A_PROGRAM:
        raise ValueError(f"{count:,} steps; expected at most {bounds.STEPS_OF_A_PROGRAM:,}")
    program, settings = _folded(manifest), None
    classes, image = manifest["classes"], manifest["image"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("its class names are no list of texts")
    if isinstance(program, FoldedDetector):
        settings = settings_of(manifest["detector"])
        if image.get("slicing"):
            raise ValueError("a detector of frames of events; expected one of images")
    elif not program.layers or [name for name, _ in program.outputs] != [LOGITS]:
        raise ValueError("its network tells no classes: expected layers, and one output, the logits")
    check_image(image, program.in_channels)
    return Bundle(
        program=program,
        class_names=tuple(classes),
        image_size=tuple(image["size"]),
        crop_ratio=image["crop_ratio"],
        mean=tuple(image["mean"]),
        std=tuple(image["std"]),
        architecture=manifest["architecture"],
        origin=manifest["origin"],
        buckets=buckets_of(image) if settings is not None or "buckets" in image else None,
        settings=settings,
        slicing=image.get("slicing"),
    )


def _folded(manifest: Mapping[str, Any]) -> Program | FoldedDetector:
    neuron = _neuron(manifest["neuron"])
    if "programs" not in manifest:
        return _program(manifest, neuron)
    programs = manifest["programs"]
    require_parts({name: record["outputs"] for name, record in programs.items() if record["steps"]})
    return FoldedDetector(**{name: _program(record, neuron) for name, record in programs.items()})


def _program(record: Mapping[str, Any], neuron: Neuron) -> Program:
    steps, outputs = tuple(map(_step, record["steps"])), reference.outputs_of(dict(record))
    return Program(steps=steps, neuron=neuron, outputs=tuple(outputs.items()))


def _neuron(record: Mapping[str, Any]) -> Neuron:
    for name, largest in (("levels", bounds.LEVELS), ("timesteps", bounds.TIMESTEPS)):
        if type(record[name]) is not int or record[name] < 1:
            raise ValueError(f"{name} of its neuron is {record[name]!r}; expected a positive whole number")
        if record[name] > largest:
            raise ValueError(f"{name} of its neuron is {record[name]}; expected at most {largest}")
    check_counts(record["levels"])
    for name, low, high, expected in (
        ("scale", TINY, HUGE, "a positive number"),
        ("threshold", -HUGE, HUGE, "a number"),
        ("decay", 0, 1, "a number in 0..1"),
    ):
        if not within(record[name], low, high):
            raise ValueError(f"{name} of its neuron is {record[name]!r}; expected {expected}")
    if (reset := record["reset"]) not in get_args(Reset):
        raise ValueError(f"reset of its neuron is {reset!r}; expected {' or '.join(get_args(Reset))}")
    return Neuron(**record, step=1 / record["scale"])


def _step(record: Mapping[str, Any]) -> Step:
    fields = dict(record)
    kind = KINDS[fields.pop("kind")]
    if kind is Linear:
        names = [field.name for field in dataclasses.fields(ConvGeometry)]
        fields["geometry"] = ConvGeometry(**{name: fields.pop(name) for name in names})
    return kind(**fields)
