"""The layers of a network, for one image."""

import dataclasses
import math

from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.interpreter import shapes_of
from qsdt_jax.deploy.merge import FloatArithmetic
from qsdt_jax.deploy.program import IMAGES, Attend, Linear, Program
from qsdt_jax.detection.inference import Settings
from qsdt_jax.detection.regions import BOX_SIDE, MASK_SIDE, STRIDES
from qsdt_jax.energy.layer import Layer
from qsdt_jax.energy.unfolded import Unfolded


def layers_of(
    program: Program | FoldedDetector | Unfolded,
    image_size: tuple[int, int],
    settings: Settings | None = None,
) -> list[Layer]:
    """The layers of a program in the order in which they run; of an unfolded network see there.

    Those of a detector's region proposal network are there once for each map, whose stride their names tell,
    and those of its heads have the operations of all regions. RoIAlign, non-maximum suppression and all else
    between the networks is no layer.

    Args:
      program: a folded network, or one that cannot be folded.
      image_size: (height, width) in pixels, multiples of 16.
      settings: of a detector, numbers of its regions.
    """
    if isinstance(program, Unfolded):
        return program.replace(image_size=image_size).layers()
    if isinstance(program, FoldedDetector):
        assert settings is not None
        return _of_detector(program, image_size, settings)
    return _of_program(program, image_size)


def at_stride(name: str, stride: int) -> str:
    """What a layer or a neuron of the region proposal network is called on the map of a stride."""
    return f"{name} at stride {stride}"


def _of_detector(detector: FoldedDetector, image_size: tuple[int, int], settings: Settings) -> list[Layer]:
    found = _of_program(detector.pyramid, image_size)
    shapes = shapes_of(detector.pyramid, image_size, FloatArithmetic())
    for stride, (_, value) in zip(STRIDES, detector.pyramid.outputs, strict=True):
        _, height, width, _ = shapes[value].shape
        found += [
            dataclasses.replace(
                layer,
                name=at_stride(layer.name, stride),
                stride=stride,
                spikes=layer.spikes and at_stride(layer.spikes, stride),
                entering=layer.entering and at_stride(layer.entering, stride),
            )
            for layer in _of_program(detector.rpn, (height, width))
        ]
    for head, side, regions in (
        (detector.box_head, BOX_SIDE, settings.proposals[1]),
        (detector.mask_head, MASK_SIDE, settings.detections),
    ):
        found += [
            dataclasses.replace(
                layer,
                macs=regions * layer.macs,
                inputs=regions * layer.inputs,
                outputs=regions * layer.outputs,
            )
            for layer in _of_program(head, (side, side))
        ]
    return found


def _of_program(program: Program, image_size: tuple[int, int]) -> list[Layer]:
    shapes = {name: value.shape for name, value in shapes_of(program, image_size, FloatArithmetic()).items()}
    found: list[Layer] = []
    entering: dict[str, str | None] = {}
    for step in program.steps:
        match step:
            case Linear():
                head = step.input if step.spikes else entering.get(step.input)
                entering[step.name] = head
                found.append(_product(step, shapes, head))
            case Attend():
                found.extend(_attention(step, shapes))
    return found


def _product(layer: Linear, shapes: dict[str, tuple[int, ...]], entering: str | None) -> Layer:
    """Each weight is used once for every output position of its channel that sees any of the input.

    The others are the border of a RepConv: a 1x1 convolution of padding, which is silence.
    """
    shape, (rows, height, width, _) = layer.weights.shape, shapes[layer.name]
    border = 2 * max(0, layer.geometry.padding + 1 - shape[0])
    positions = rows * (height - border) * (width - border)
    return Layer(
        name=layer.name,
        kind="conv" if layer.geometry.groups == 1 else "depthwise",
        macs=positions * math.prod(shape),
        weights=math.prod(shape),
        bits=layer.bits,
        inputs=math.prod(shapes[layer.input]),
        outputs=math.prod(shapes[layer.name]),
        stride=max(1, shapes[IMAGES][1] // height),
        spikes=layer.input if layer.spikes else None,
        entering=entering,
    )


def _attention(step: Attend, shapes: dict[str, tuple[int, ...]]) -> list[Layer]:
    """k^T v: the spikes of k select rows of v; q (k^T v): those of q select rows of k^T v."""
    rows, *pixels, channels = shapes[step.k]
    tokens, width = math.prod(pixels), channels // step.heads
    size, square = rows * tokens * channels, rows * channels * width
    products = [("k^T v", step.k, 2 * size, square), ("q (k^T v)", step.q, size + square, size)]
    return [
        Layer(
            name=f"{step.name}/{product}",
            kind="attention",
            macs=rows * tokens * channels * width,
            weights=0,
            bits=0,
            inputs=inputs,
            outputs=outputs,
            stride=shapes[IMAGES][1] // pixels[0],
            spikes=selecting,
            entering=selecting,
        )
        for product, selecting, inputs, outputs in products
    ]
