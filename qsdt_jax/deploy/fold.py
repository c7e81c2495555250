"""Folding: the variables of a trained network -> a program of integers, scales and shifts.

Float weights stay what they are where spikes come in, which select them.

The network itself tells its steps: it is run in evaluation, with a `SymbolicArray` in the place of each
array. A product waits as a `Product` until all that follows it is composed into its scale and shift, by the
code of evaluation, in the same order, one rounded operation at a time. So the folded network gives the bits
of the evaluated one.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from qsdt_jax.deploy.detector import OUTPUTS, FoldedDetector
from qsdt_jax.deploy.program import IMAGES, LOGITS, Program
from qsdt_jax.deploy.steps import Folding, SymbolicArray
from qsdt_jax.deploy.validity import check_counts, check_sums
from qsdt_jax.detection.regions import BOX_SIDE, MASK_SIDE
from qsdt_jax.errors import UserError
from qsdt_jax.jit_once import jit_once
from qsdt_jax.layers.bits_rules import FLOAT_BITS, bits_of
from qsdt_jax.models import Backbone, Classifier, MaskRCNN, Segmenter, SpikingResformer
from qsdt_jax.models.backbone import STRIDE
from qsdt_jax.models.shapes import variable_shapes

EXPECTED = "so there are no integers to export; expected a network trained with 1 to 8 bits"
SHOWN = 5  # Faults that a message tells.
SIDE = 2 * STRIDE  # Pixels of the image that the network is run on; steps do not depend on it.


def fold(
    model: Classifier | Segmenter | Backbone | SpikingResformer, variables: Mapping[str, Any]
) -> Program:
    """The program of a classifier or segmenter, whose output is called "logits", or of a backbone.

    A backbone's outputs are its stages.

    Args:
      model: with 1 to 8 weight bits in every layer; single layers that receive spikes may have float weights.
      variables: "params" and "batch_stats" of it, in any float type; the program is float32.

    Raises:
      UserError: a SpikingResformer; weights of real values are float, or those of all layers without a rule;
        there are no spikes or they do not attend; a neuron has a threshold of its own; or counts or sums are
        too large for int8 and float32.
      ValueError: the names and shapes of the variables are not those of the model.
    """
    if isinstance(model, SpikingResformer):
        attention = [name for name in variables["params"] if "_dssa" in name]
        raise UserError(
            "a SpikingResformer cannot be folded: its weights are float, and the attention in "
            f"{', '.join(attention)} adds real values that spikes select; expected a network trained with 1 "
            "to 8 bits"
        )
    _check_bits(_backbone(model), variables)
    single, floats = _in_float32(model, variables)
    with on_the_cpu():
        program = jax.device_get(_compiled()(floats, single))
    for layer in program.layers:
        if layer.spikes:
            check_sums(layer.name, layer.weights, program.neuron.levels)
    return program


def fold_detector(model: MaskRCNN, variables: Mapping[str, Any]) -> FoldedDetector:
    """The programs of a detector.

    Args:
      model: with 1 to 8 weight bits in every layer, and `final_neuron`.
      variables: as of `fold`.

    Raises:
      UserError: class and box take real values, weights of a layer are float, or as `fold`.
      ValueError: as `fold`.
    """
    if not model.final_neuron:
        raise UserError(
            "class and box of this detector take real values (final_neuron=False), so it is not spike-driven "
            "down to the boxes; expected a detector trained with final_neuron=True"
        )
    _check_bits(model.backbone, variables)
    if floats := _float_layers(model.backbone, variables):
        raise UserError(f"{_named(floats)} float weights (32 bits by bits_rules), {EXPECTED} in every layer")
    single, arrays = _in_float32(model, variables)
    with on_the_cpu():
        detector = jax.device_get(_compiled_detector()(arrays, single))
    for layer in detector.layers:
        if layer.spikes:
            check_sums(layer.name, layer.weights, detector.neuron.levels)
    return detector


def _backbone(model: Classifier | Segmenter | MaskRCNN | Backbone) -> Backbone:
    return model if isinstance(model, Backbone) else model.backbone


def _in_float32(
    model: Classifier | Segmenter | MaskRCNN | Backbone, variables: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The network that is folded, and its variables; raises as `fold` where it cannot be."""
    backbone = _backbone(model)
    if backbone.numerics.neuron is None or backbone.attention != "spiking":
        raise UserError(
            "only networks with spiking neurons and spiking attention can be exported; found "
            f"neuron={backbone.neuron}, attention={backbone.attention}"
        )
    check_counts(backbone.levels)
    single = backbone.clone(dtype=jnp.float32, param_dtype=jnp.float32)
    network: Any = single if isinstance(model, Backbone) else model.clone(backbone=single)
    _check_variables(variable_shapes(network), variables)
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), jax.device_get(dict(variables)))
    return network, arrays


def _check_bits(backbone: Backbone, variables: Mapping[str, Any]) -> None:
    """Refuses a network whose layers have float weights if no rule says otherwise; raises UserError."""
    layers = ["/".join(path[:-1]) for path in flatten_dict(variables["params"]) if path[-1] == "kernel"]
    floats = _float_layers(backbone, variables)
    if len(floats) == len(layers):
        raise UserError(f"the network has float weights (bits=32), {EXPECTED}")
    if backbone.bits == FLOAT_BITS and floats:
        raise UserError(f"{_named(floats)} float weights (bits=32), {EXPECTED}")


def _float_layers(backbone: Backbone, variables: Mapping[str, Any]) -> list[str]:
    """The layers with float weights."""
    layers = ["/".join(path[:-1]) for path in flatten_dict(variables["params"]) if path[-1] == "kernel"]
    return [layer for layer in layers if bits_of(layer, backbone.bits_rules, backbone.bits) == FLOAT_BITS]


def _named(layers: Sequence[str]) -> str:
    """The first of some layers, and "have" or "has"."""
    more = f" and {len(layers) - SHOWN} more layers" if len(layers) > SHOWN else ""
    return f"{', '.join(layers[:SHOWN])}{more} {'have' if len(layers) > 1 else 'has'}"


def on_the_cpu() -> contextlib.AbstractContextManager[Any]:
    """A context in which JAX computes on the CPU; raises UserError where it was told to leave that out.

    Quotients and square roots are rounded correctly on a CPU, and not everywhere else.
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        asked = jax.config.values["jax_platforms"]
        raise UserError(
            f"folding is computed on the CPU, but JAX_PLATFORMS={asked} leaves out the CPU; "
            f"expected JAX_PLATFORMS={asked},cpu"
        ) from None


@functools.cache
def _compiled() -> Any:
    """`_folded` as one program: by themselves its hundreds of small operations are compiled one by one.

    Made when it is needed, because JAX is asked for its backend. Equal networks are traced once.
    """
    return jit_once(_folded, static_argnames="model")


@functools.cache
def _compiled_detector() -> Any:
    """`_folded_detector`, likewise."""
    return jit_once(_folded_detector, static_argnames="model")


def _folded(variables: Mapping[str, Any], model: Classifier | Segmenter | Backbone) -> Program:
    """The program of a network, which tells its steps and outputs itself."""
    method = "features" if isinstance(model, Backbone) else "__call__"
    return _program(variables, model, (SIDE, _backbone(model).in_channels), method)


def _folded_detector(variables: Mapping[str, Any], model: MaskRCNN) -> FoldedDetector:
    """The programs of a detector, likewise."""

    def part(name: str, side: int, channels: int, call: Callable[[Any, Any], Sequence[Any]]) -> Program:
        def named(module: Any, x: Any) -> dict[str, Any]:
            return dict(zip(OUTPUTS[name], call(module, x), strict=True))

        return _program(variables, model, (side, channels), named)

    width = model.fpn_channels
    return FoldedDetector(
        pyramid=part("pyramid", SIDE, model.backbone.in_channels, lambda module, x: module.pyramid(x)),
        rpn=part("rpn", SIDE, width, lambda module, x: module.rpn(x, False)),
        box_head=part("box_head", BOX_SIDE, width, lambda module, x: module.box_head(x, False)),
        mask_head=part("mask_head", MASK_SIDE, width, lambda module, x: [module.mask_head(x, False)]),
    )


def _program(
    variables: Mapping[str, Any],
    model: Classifier | Segmenter | MaskRCNN | Backbone,
    shape: tuple[int, int],
    method: str | Callable[..., Any],
) -> Program:
    """The program of a method, which gives real values by name or the logits alone.

    `shape` is that of what comes in: pixels of a side, on which steps do not depend, and channels.
    """
    neuron = _backbone(model).numerics.neuron
    assert neuron is not None
    folding, (side, channels) = Folding(), shape
    inputs = SymbolicArray(IMAGES, (1, side, side, channels), (side, side), folding.add)
    with nn.intercept_methods(folding.intercept):
        found: Any = model.apply(variables, inputs, method=method)
    if folding.floats:
        raise UserError(
            f"{_named(folding.floats)} float weights (32 bits by bits_rules) and real values to multiply, "
            f"{EXPECTED} where no spikes come in"
        )
    outputs = {LOGITS: found} if isinstance(found, SymbolicArray) else found
    return Program(
        steps=tuple(folding.steps),
        neuron=neuron,
        outputs=tuple((name, value.name) for name, value in outputs.items()),
    )


def _check_variables(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuses variables of other names or shapes than the network draws."""
    wanted, given = _shapes(expected), _shapes(found)
    faults = [
        *(f"lacks {name} {wanted[name]}" for name in sorted(wanted.keys() - given.keys())),
        *(f"has no place for {name} {given[name]}" for name in sorted(given.keys() - wanted.keys())),
        *(
            f"expects {name} {wanted[name]}, found {given[name]}"
            for name in sorted(wanted.keys() & given.keys())
            if wanted[name] != given[name]
        ),
    ]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ValueError(f"folding {'; '.join(faults[:SHOWN])}{more}")


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """By name, such as "params/head/kernel"."""
    leaves: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    return {name: jnp.shape(leaf) for name, leaf in leaves.items()}
