"""A folded detector: four programs, of which each part that runs more than once is kept once.

What lies between them is `detection.inference`, as in training. The pyramid takes images, the region proposal
network one map of any size, the heads the pooled features of a region: real values, in front of a neuron.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import struct

from qsdt_jax.core.neurons import Neuron
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import Arithmetic, Values, interpret, shapes_of, steps_of_outputs
from qsdt_jax.deploy.program import Linear, Program, Step
from qsdt_jax.deploy.validity import check_program
from qsdt_jax.detection.inference import Networks
from qsdt_jax.detection.regions import BOX_SIDE, MASK_SIDE, STRIDES
from qsdt_jax.errors import UserError
from qsdt_jax.models.detector import by_region, mean_of_steps, of_regions
from qsdt_jax.models.rpn import ANCHORS

MAPS = tuple(f"map{i}" for i in range(len(STRIDES)))
SCORE, DELTA, CLASS, BOX, MASK = "score", "delta", "class", "box", "mask"
# The outputs of each part; those of the pyramid are taken step by step.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "pyramid": MAPS,
    "rpn": (SCORE, DELTA),
    "box_head": (CLASS, BOX),
    "mask_head": (MASK,),
}

Run = Callable[..., Values]
"""(program, frames (B, T, H, W, C) or images (B, H, W, C)[, sizes (B, 2)]) -> outputs of every time step."""


class FoldedDetector(struct.PyTreeNode):
    """The parts of a detector; all have one neuron.

    Attributes:
      pyramid: images -> "map0" to "map4", at strides 4 to 64.
      rpn: a map -> "score" and "delta" of each pixel, 3 and 12 channels.
      box_head: (7, 7, C) -> "class" and "box", K + 1 and 4 K channels.
      mask_head: (14, 14, C) -> "mask" (28, 28, K).
    """

    pyramid: Program
    rpn: Program
    box_head: Program
    mask_head: Program

    @property
    def parts(self) -> dict[str, Program]:
        return {name: getattr(self, name) for name in OUTPUTS}

    @property
    def neuron(self) -> Neuron:
        return self.pyramid.neuron

    @property
    def steps(self) -> list[Step]:
        """Of all parts, in the order in which they run."""
        return [step for part in self.parts.values() for step in part.steps]

    @property
    def layers(self) -> list[Linear]:
        return [layer for part in self.parts.values() for layer in part.layers]

    @property
    def bits(self) -> tuple[int, ...]:
        """The numbers of weight bits that its layers have, each once and ascending."""
        return tuple(sorted({layer.bits for layer in self.layers}))

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.pyramid.in_channels

    @property
    def num_classes(self) -> int:
        """K, without the background."""
        return self.mask_head.channels_of(MASK)

    def input_shapes(self, image_size: tuple[int, int]) -> dict[str, tuple[int, int]]:
        """Height and width of what comes into each part; into `rpn` the finest map."""
        height, width = image_size
        finest = -(-height // STRIDES[0]), -(-width // STRIDES[0])
        return {
            "pyramid": (height, width),
            "rpn": finest,
            "box_head": (BOX_SIDE, BOX_SIDE),
            "mask_head": (MASK_SIDE, MASK_SIDE),
        }


def networks_of_detector(detector: FoldedDetector, run: Run) -> Networks:
    """The networks of a folded detector; `run` runs its programs in some form."""
    timesteps = detector.neuron.timesteps

    def framed(rows: jax.Array) -> jax.Array:
        return rows.reshape(-1, timesteps, *rows.shape[1:])

    def pyramid(images: jax.Array, sizes: jax.Array) -> list[jax.Array]:
        found = run(detector.pyramid, images, sizes)
        return [found[name] for name in MAPS]

    def propose(maps: Any) -> tuple[list[jax.Array], list[jax.Array]]:
        found = [run(detector.rpn, framed(x)) for x in maps]
        scores = [mean_of_steps(y[SCORE], timesteps) for y in found]
        deltas = [mean_of_steps(y[DELTA], timesteps) for y in found]
        return scores, [y.reshape(*x.shape, 4) for x, y in zip(scores, deltas, strict=True)]

    def head(program: Program, features: jax.Array) -> Values:
        found = run(program, framed(by_region(features, timesteps)))
        return {name: of_regions(y, features.shape[1], timesteps) for name, y in found.items()}

    def classify(features: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = head(detector.box_head, features)
        scores, deltas = found[CLASS][:, :, 0, 0], found[BOX][:, :, 0, 0]
        return scores, deltas.reshape(*deltas.shape[:2], -1, 4)

    def segment(features: jax.Array) -> jax.Array:
        return head(detector.mask_head, features)[MASK]

    return Networks(pyramid, propose, classify, segment)


def runner(arithmetic: Arithmetic) -> Run:
    """Runs programs in a form, each compiled on its own."""
    return functools.partial(_outputs, arithmetic)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(
    arithmetic: Arithmetic, program: Program, frames: jax.Array, sizes: jax.Array | None = None
) -> Values:
    return steps_of_outputs(program, interpret(program, frames, arithmetic, sizes))


def require_parts(outputs: Mapping[str, Iterable[str]]) -> None:
    """Raises ValueError where these are not the parts of a detector, each with its outputs."""
    if sorted(outputs) != sorted(OUTPUTS):
        raise ValueError(f"its programs with steps are {', '.join(outputs)}; expected {', '.join(OUTPUTS)}")
    for name, expected in OUTPUTS.items():
        if sorted(outputs[name]) != sorted(expected):
            raise ValueError(
                f"its {name} has other outputs than a detector's: expected {', '.join(expected)}"
            )


def check_folded(program: Program | FoldedDetector, sizes: Iterable[tuple[int, int]]) -> None:
    """Raises UserError as `check_program` or `check_detector`, for images of any of these sizes."""
    for size in sizes:
        if isinstance(program, FoldedDetector):
            check_detector(program, size)
        else:
            check_program(program, size)


def check_detector(detector: FoldedDetector, image_size: tuple[int, int]) -> None:
    """Refuses a detector whose parts cannot be run, or do not fit each other.

    Raises:
      UserError: as `validity.check_program`; a part has other outputs than it should, or of other shapes.
    """
    shapes = detector.input_shapes(image_size)
    classes, width = detector.num_classes, detector.rpn.in_channels
    channels = {
        **dict.fromkeys(MAPS, width),
        SCORE: ANCHORS,
        DELTA: 4 * ANCHORS,
        CLASS: classes + 1,
        BOX: 4 * classes,
        MASK: classes,
    }
    sizes: dict[str, tuple[int, int]] = dict.fromkeys((SCORE, DELTA), shapes["rpn"])
    sizes |= {CLASS: (1, 1), BOX: (1, 1), MASK: (2 * MASK_SIDE, 2 * MASK_SIDE), MAPS[0]: shapes["rpn"]}
    for name, part in detector.parts.items():
        try:
            check_program(part, shapes[name])
        except UserError as error:
            raise UserError(f"its {name}: {error}") from None
        if name != "pyramid" and part.in_channels != width:
            raise UserError(f"its {name} takes {part.in_channels} channels; expected the {width} of its rpn")
        values = shapes_of(part, shapes[name], IntegerArithmetic())
        for output, value in part.outputs:
            _, *size, count = values[value].shape
            if count != channels[output] or tuple(size) != sizes.get(output, tuple(size)):
                raise UserError(
                    f"its {name} gives {output} of {size} pixels and {count} channels; expected "
                    f"{channels[output]} channels, as its other parts have it"
                )
