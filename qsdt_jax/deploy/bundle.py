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
from qsdt_jax.deploy import reference
from qsdt_jax.deploy.detector import OUTPUTS, FoldedDetector, check_detector
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
from qsdt_jax.deploy.use import DetectorUse
from qsdt_jax.deploy.validity import check_counts, check_program
from qsdt_jax.errors import UserError
from qsdt_jax.files import write_atomically
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.models.backbone import STRIDE

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
OLDEST, WITH_NEWER_STEPS, OF_DETECTORS = 1, 2, 3  # Versions of the format.
# The normal numbers of float32, in which a manifest's become arithmetic.
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """A deployed network and how to feed and read it.

    Attributes:
      program: the folded network, or the parts of a detector.
      class_names: one for each channel of the logits, or for each category of a detector.
      image_size: (height, width) in pixels that it was trained at.
      crop_ratio: share of height and width that is cut out of an image scaled to cover that.
      mean, std: of pixels in 0..1, one number or one for each channel.
      architecture: numbers of the network, for people.
      origin: where it came from, for people.
      use: of a detector, how it is used.
    """

    program: Program | FoldedDetector
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    crop_ratio: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: Mapping[str, Any]
    origin: Mapping[str, Any]
    use: DetectorUse | None = None

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
            check_folded(bundle.program, bundle.image_size)
        found, expected = len(bundle.class_names), bundle.program.num_classes
        if found != expected:
            raise ValueError(f"{found} class names, but {expected} class scores")
        return bundle
    except OSError as error:
        raise UserError(f"bundle {path} cannot be read: {error.strerror}") from None
    except (ValueError, UserError) as error:
        raise UserError(f"bundle {path}: {error}") from None


def check_folded(program: Program | FoldedDetector, image_size: tuple[int, int]) -> None:
    """Raises UserError as `check_program` or `check_detector`."""
    if isinstance(program, FoldedDetector):
        check_detector(program, image_size)
    else:
        check_program(program, image_size)


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
        },
    }
    if isinstance(program, FoldedDetector):
        assert bundle.use is not None
        manifest["detector"] = bundle.use.record()
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


def _version(manifest: Mapping[str, Any]) -> int:
    """The oldest version of the format that has all of this: readers of then take what they can read."""
    if "programs" in manifest:
        return OF_DETECTORS
    newer = "bits" not in manifest or any(
        step["kind"] == "bilinear" or "tokens" in step or "input_gain" in step for step in manifest["steps"]
    )
    return WITH_NEWER_STEPS if newer else OLDEST


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
        fields["weights"] = tensors.add(step.weights.shape, pack(np.asarray(step.weights), step.bits))
        for name, vector in (("scale", step.scale), ("shift", step.shift)):
            fields[name] = tensors.add(vector.shape, np.asarray(vector, "<f4").tobytes())
    return {"kind": kind, **fields}


def _from_manifest(manifest: dict[str, Any]) -> Bundle:
    """The bundle of a manifest; raises ValueError where it says what cannot be."""
    count = len(reference.steps_of(manifest))
    if count > bounds.STEPS_OF_A_PROGRAM:
        raise ValueError(f"{count:,} steps; expected at most {bounds.STEPS_OF_A_PROGRAM:,}")
    neuron = _neuron(manifest["neuron"])
    program, use = _folded(manifest, neuron), None
    classes, image = manifest["classes"], manifest["image"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("its class names are no list of texts")
    if isinstance(program, FoldedDetector):
        use = DetectorUse.of(manifest["detector"])
    elif not program.layers or [name for name, _ in program.outputs] != [LOGITS]:
        raise ValueError("its network tells no classes: expected layers, and one output, the logits")
    _check_image(image, program.in_channels)
    return Bundle(
        program=program,
        class_names=tuple(classes),
        image_size=tuple(image["size"]),
        crop_ratio=image["crop_ratio"],
        mean=tuple(image["mean"]),
        std=tuple(image["std"]),
        architecture=manifest["architecture"],
        origin=manifest["origin"],
        use=use,
    )


def _folded(manifest: Mapping[str, Any], neuron: Neuron) -> Program | FoldedDetector:
    if "programs" not in manifest:
        return _program(manifest, neuron)
    programs, expected = manifest["programs"], list(OUTPUTS)
    if sorted(programs) != sorted(expected):
        raise ValueError(f"its programs are {', '.join(programs)}; expected {', '.join(expected)}")
    for name, outputs in OUTPUTS.items():
        if sorted(programs[name]["outputs"]) != sorted(outputs) or not programs[name]["steps"]:
            raise ValueError(
                f"its {name} is not that of a detector: expected steps, and {', '.join(outputs)}"
            )
    return FoldedDetector(**{name: _program(record, neuron) for name, record in programs.items()})


def _program(record: Mapping[str, Any], neuron: Neuron) -> Program:
    return Program(
        steps=tuple(map(_step, record["steps"])),
        neuron=neuron,
        outputs=tuple(reference.outputs_of(dict(record)).items()),
    )


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
        if not _within(record[name], low, high):
            raise ValueError(f"{name} of its neuron is {record[name]!r}; expected {expected}")
    if (reset := record["reset"]) not in get_args(Reset):
        raise ValueError(f"reset of its neuron is {reset!r}; expected {' or '.join(get_args(Reset))}")
    return Neuron(**record, step=1 / record["scale"])


def _check_image(image: Mapping[str, Any], channels: int) -> None:
    size = image["size"]
    if len(size) != 2 or any(type(side) is not int or side < STRIDE or side % STRIDE for side in size):
        raise ValueError(f"images of {'x'.join(map(str, size))} pixels; expected multiples of {STRIDE}")
    if max(size) > bounds.SIDE:
        raise ValueError(f"images of {size[0]}x{size[1]} pixels; expected at most {bounds.SIDE} a side")
    if image["channels"] != channels:
        raise ValueError(f"images of {image['channels']} channels, but its first layer takes {channels}")
    if not _within(image["crop_ratio"], bounds.SMALLEST_CROP, 1):
        raise ValueError(f"crop_ratio {image['crop_ratio']!r}; expected a number in 0..1, not 0 nor near it")
    for name, low in (("mean", -HUGE), ("std", TINY)):
        values = image[name]
        if len(values) not in (1, channels) or not all(_within(value, low, HUGE) for value in values):
            kind = "positive number" if name == "std" else "number"
            raise ValueError(f"{name} {values!r}; expected one {kind}, or one for each channel ({channels})")


def _within(value: Any, low: float, high: float) -> bool:
    """False for NaN and for what is no number at all."""
    return type(value) in (int, float) and low <= value <= high


def _step(record: Mapping[str, Any]) -> Step:
    fields = dict(record)
    kind = KINDS[fields.pop("kind")]
    if kind is Linear:
        names = [field.name for field in dataclasses.fields(ConvGeometry)]
        fields["geometry"] = ConvGeometry(**{name: fields.pop(name) for name in names})
    return kind(**fields)
