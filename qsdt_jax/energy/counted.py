"""What a deployed network gives for a batch, and the spike counts behind it with those of padding told."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qsdt_jax.deploy.detector import FoldedDetector, networks_of_detector
from qsdt_jax.deploy.interpreter import Arithmetic, Values, class_scores, interpret, steps_of_outputs
from qsdt_jax.deploy.program import Fire, Program
from qsdt_jax.detection.inference import Settings, find_objects
from qsdt_jax.detection.regions import STRIDES
from qsdt_jax.energy.effective import effective_operations
from qsdt_jax.energy.operations import at_stride
from qsdt_jax.energy.unfolded import Unfolded
from qsdt_jax.layers.tokens import valid_places, valid_tokens


class Counts(NamedTuple):
    """Counts of a neuron (B * ..., ...), and where they are of an image and no padding; None: everywhere."""

    counts: jax.Array
    valid: jax.Array | None


class Run(NamedTuple):
    """What `counted` gives for a batch.

    Attributes:
      outputs: logits, or the objects of a detector.
      counts: of each neuron.
      effective: of `effective.effective_operations`; empty of a detector, of a network that cannot be folded
        and where images are padded.
    """

    outputs: Any
    counts: dict[str, Counts]
    effective: dict[str, jax.Array]


def neurons_of(program: Program | FoldedDetector | Unfolded) -> list[str]:
    """Names of the neurons in the order in which they fire, as `counted` has them."""
    if isinstance(program, Unfolded):
        return program.neurons()
    if not isinstance(program, FoldedDetector):
        return _fires(program)
    rpn = [at_stride(name, stride) for stride in STRIDES for name in _fires(program.rpn)]
    return [*_fires(program.pyramid), *rpn, *_fires(program.box_head), *_fires(program.mask_head)]


def counted(
    program: Program | FoldedDetector | Unfolded,
    settings: Settings | None,
    arithmetic: Arithmetic,
    batch: Mapping[str, jax.Array],
) -> Run:
    """Logits, or the objects of a detector, the counts of each neuron, and effective operations.

    Args:
      program: a folded network, or one that cannot be folded.
      settings: of a detector.
      arithmetic: the form of a folded network.
      batch: {"image": (B, ...)}, with padded images "size" (B, 2) too.
    """
    images, sizes = batch["image"], batch.get("size")
    if isinstance(program, Unfolded):
        logits, counts = program.spikes(images)
        return Run(logits, {name: Counts(values, None) for name, values in counts.items()}, {})
    if isinstance(program, FoldedDetector):
        assert settings is not None and sizes is not None
        return _of_detector(program, settings, arithmetic, images, sizes)
    values = interpret(program, images, arithmetic, sizes)
    effective = effective_operations(program, values) if sizes is None else {}
    return Run(class_scores(program, values), _of_maps(program, values, images, sizes), effective)


def _of_maps(program: Program, values: Values, images: jax.Array, sizes: Any) -> dict[str, Counts]:
    def valid(counts: jax.Array) -> jax.Array | None:
        if sizes is None:
            return None
        return valid_places(sizes, images.shape[-3:-1], program.neuron.timesteps, counts.shape)

    return {name: Counts(values[name], valid(values[name])) for name in _fires(program)}


def _of_detector(
    detector: FoldedDetector, settings: Settings, arithmetic: Arithmetic, images: jax.Array, sizes: jax.Array
) -> Run:
    """Of regions those that are in use count."""
    timesteps = detector.neuron.timesteps
    actual = (*STRIDES[:3], *STRIDES[2:4]) if settings.geometry == "published" else STRIDES
    levels, counts, kept = iter(zip(STRIDES, actual, strict=True)), {}, {}

    def run(program: Program, *inputs: Any) -> Values:
        values = interpret(program, inputs[0], arithmetic, *inputs[1:])
        if program is detector.pyramid:
            counts.update(_of_maps(program, values, images, sizes))
        elif program is detector.rpn:
            (stride, pixels), shape = next(levels), inputs[0].shape
            inside = valid_tokens(sizes, pixels, (shape[2], shape[3]))[..., None]
            inside = jnp.repeat(inside, timesteps, axis=0)
            counts.update({at_stride(n, stride): Counts(values[n], inside) for n in _fires(program)})
        else:
            counts.update({name: Counts(values[name], None) for name in _fires(program)})
        return steps_of_outputs(program, values)

    def part(function: Any) -> Any:
        def kept_result(*args: Any) -> Any:
            kept[function.__name__] = result = function(*args)
            return result

        return kept_result

    objects = find_objects(networks_of_detector(detector, run), settings, images, sizes, part)
    for program, used in (
        (detector.box_head, kept["regions"][0].valid),
        (detector.mask_head, kept["objects"][0].category >= 0),
    ):
        rows = jnp.repeat(used.reshape(-1), timesteps)
        for name in _fires(program):
            ones = (1,) * (counts[name].counts.ndim - 1)
            counts[name] = counts[name]._replace(valid=rows.reshape(-1, *ones))
    return Run(objects, counts, {})


def _fires(program: Program) -> list[str]:
    return [step.name for step in program.steps if isinstance(step, Fire)]
