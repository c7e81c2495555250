"""Folding: the variables of a trained network -> a program of integers, scales and shifts.

The network itself tells its steps: it is run in evaluation, with a `SymbolicArray` in the place of each
array. A product waits as a `Product` until all that follows it is composed into its scale and shift, by the
code of evaluation, in the same order, one rounded operation at a time. So the folded network gives the bits
of the evaluated one.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from qsdt_jax.deploy.detector import OUTPUTS, FoldedDetector
from qsdt_jax.deploy.program import IMAGES, LOGITS, Program
from qsdt_jax.deploy.steps import Folding, SymbolicArray
from qsdt_jax.deploy.validity import check_counts
from qsdt_jax.detection.regions import BOX_SIDE, MASK_SIDE
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import FLOAT_BITS, bits_of
from qsdt_jax.models import Backbone, Classifier, MaskRCNN, Segmenter
from qsdt_jax.models.backbone import STRIDE

Network = TypeVar("Network", Classifier, Segmenter, MaskRCNN, Backbone)

SHOWN = 5  # Faults that a message tells.
SIDE = 2 * STRIDE  # Pixels of the image that the network is run on; steps do not depend on it.


def fold(model: Classifier | Segmenter | Backbone, variables: Mapping[str, Any]) -> Program:
    """The program of a classifier or segmenter, whose output is called "logits", or of a backbone.

    A backbone's outputs are its stages.

    Args:
      model: with 1 to 8 weight bits in every layer.
      variables: "params" and "batch_stats" of it, in any float type; the program is float32.

    Raises:
      UserError: weights are float, there are no spikes or they do not attend, or counts or sums are too large
        for int8 and float32.
      ValueError: the names and shapes of the variables are not those of the model.
    """
    single = in_float32(model, variables)
    method = "features" if isinstance(single, Backbone) else "__call__"
    channels = backbone_of(single).in_channels
    with on_the_cpu():
        image = jax.ShapeDtypeStruct((1, SIDE, SIDE, channels), jnp.float32)
        prepared = prepare(single, variables, image, method)
        return program_of(single, prepared, image.shape, method)


def fold_detector(model: MaskRCNN, variables: Mapping[str, Any]) -> FoldedDetector:
    """The programs of a detector; arguments and errors as of `fold`.

    Raises:
      UserError: besides, class and box take real values.
    """
    single = in_float32(model, variables)
    if not model.final_neuron:
        raise UserError(
            "class and box of this detector take real values (final_neuron=False), so it is not spike-driven "
            "down to the boxes; expected a detector trained with final_neuron=True"
        )
    with on_the_cpu():
        image = jax.ShapeDtypeStruct((1, SIDE, SIDE, backbone_of(single).in_channels), jnp.float32)
        prepared = prepare(single, variables, image, "__call__")

        def part(name: str, side: int, channels: int, call: Callable[[Any, Any], Sequence[Any]]) -> Program:
            def named(module: Any, x: Any) -> dict[str, Any]:
                return dict(zip(OUTPUTS[name], call(module, x), strict=True))

            return program_of(single, prepared, (1, side, side, channels), named)

        width = model.fpn_channels
        return FoldedDetector(
            pyramid=part("pyramid", SIDE, image.shape[-1], lambda module, x: module.pyramid(x)),
            rpn=part("rpn", SIDE, width, lambda module, x: module.rpn(x, False)),
            box_head=part("box_head", BOX_SIDE, width, lambda module, x: module.box_head(x, False)),
            mask_head=part("mask_head", MASK_SIDE, width, lambda module, x: [module.mask_head(x, False)]),
        )


def backbone_of(model: Classifier | Segmenter | MaskRCNN | Backbone) -> Backbone:
    """The backbone of a network, or the network that is one."""
    return model if isinstance(model, Backbone) else model.backbone


def in_float32(model: Network, variables: Mapping[str, Any]) -> Network:
    """The network that is folded, in float32; raises UserError as `fold` where it cannot be."""
    backbone = backbone_of(model)
    check_bits(backbone, variables)
    if backbone.numerics.neuron is None or backbone.attention != "spiking":
        raise UserError(
            "only networks with spiking neurons and spiking attention can be exported; found "
            f"neuron={backbone.neuron}, attention={backbone.attention}"
        )
    check_counts(backbone.levels)
    single = backbone.clone(dtype=jnp.float32, param_dtype=jnp.float32)
    return single if isinstance(model, Backbone) else model.clone(backbone=single)


def check_bits(backbone: Backbone, variables: Mapping[str, Any]) -> None:
    """Refuses a network with float weights.

    Raises:
      UserError: in one layer or more, which it names.
    """
    layers = ["/".join(path[:-1]) for path in flatten_dict(variables["params"]) if path[-1] == "kernel"]
    floats = [layer for layer in layers if bits_of(layer, backbone.bits_rules, backbone.bits) == FLOAT_BITS]
    expected = "so there are no integers to export; expected a network trained with 1 to 8 bits"
    if len(floats) == len(layers):
        raise UserError(f"the network has float weights (bits=32), {expected}")
    if floats:
        more = f" and {len(floats) - SHOWN} more layers" if len(floats) > SHOWN else ""
        raise UserError(
            f"{', '.join(floats[:SHOWN])}{more} have float weights (32 bits by bits_rules), {expected} in "
            "every layer"
        )


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


def prepare(model: nn.Module, variables: Mapping[str, Any], image: Any, method: str) -> dict[str, Any]:
    """Variables in float32; raises ValueError where names or shapes are not those of the model."""
    expected = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method=method), image)
    _check_variables(expected, variables)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), jax.device_get(dict(variables)))


def program_of(
    model: Classifier | Segmenter | MaskRCNN | Backbone,
    variables: Mapping[str, Any],
    shape: tuple[int, ...],
    method: str | Callable[..., Any],
) -> Program:
    """The program of a method of a network, which tells its steps itself.

    Args:
      model: in float32.
      variables: those of `prepare`.
      shape: (1, H, W, C) of what comes in; steps do not depend on H and W.
      method: gives real values by their names, or the logits alone.
    """
    folding = Folding()
    inputs = SymbolicArray(IMAGES, shape, (shape[1], shape[2]), folding.add)
    with nn.intercept_methods(folding.intercept):
        found: Any = model.apply(variables, inputs, method=method)
    outputs = {LOGITS: found} if isinstance(found, SymbolicArray) else found
    neuron = backbone_of(model).numerics.neuron
    assert neuron is not None
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
