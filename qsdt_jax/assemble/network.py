"""The network of a configuration."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qsdt_jax.configuration.network_keys import NETWORK_KEYS
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.memory import require_memory
from qsdt_jax.models import Backbone, Classifier, MaskRCNN, Segmenter, SpikingResformer

# Keys of `config.model` that are no fields of the backbone.
OF_CLASSIFIER = ("distillation_head",)
OF_SEGMENTER = ("fpn_channels", "neuron_input_gain")
OF_DETECTOR = (*OF_SEGMENTER, "box_features", "final_neuron", "anchor_scale", "geometry")
OF_RESFORMER = ("timesteps", "norm_group", "remat", "dtype")  # All of them that a SpikingResformer has.
Model = Classifier | Segmenter | MaskRCNN  # With a backbone.
Network = Model | SpikingResformer
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


def require_classifier(model: Any, where: str) -> Classifier:
    """A task's network, for whoever looks inside of it; raises UserError where it is of another kind."""
    if not isinstance(model, Classifier):
        raise UserError(f"{where} has a network of its own, {type(model).__name__}; expected a Classifier")
    return model


def require_network(model: Any, where: str) -> Network:
    """A task's network, one of those here; raises UserError where it is of one's own."""
    if not isinstance(model, Network):
        raise UserError(
            f"{where} has a network of its own, {type(model).__name__}; expected a Classifier, a Segmenter, "
            "a MaskRCNN or a SpikingResformer"
        )
    return model


def require_backbone(model: Any, where: str) -> Model:
    """A task's network, for whoever looks at its backbone; raises UserError where it has none."""
    if isinstance(model, SpikingResformer):
        raise UserError(f"{where} has a SpikingResformer; expected a Classifier, a Segmenter or a MaskRCNN")
    model = require_network(model, where)
    assert not isinstance(model, SpikingResformer)
    return model


def numerics_of(model: Network) -> Numerics:
    """What its layers share."""
    return (model if isinstance(model, SpikingResformer) else model.backbone).numerics


def timesteps_of(model: Network) -> int:
    """T."""
    return numerics_of(model).timesteps


def require_logits(model: Any, where: str) -> Classifier | Segmenter:
    """A task's network, for whoever takes its outputs for logits; raises UserError where they are none."""
    if isinstance(model, MaskRCNN):
        raise UserError(
            f"{where} has a detector; expected a classifier or a segmenter, whose outputs are logits"
        )
    model = require_backbone(model, where)
    assert not isinstance(model, MaskRCNN)
    return model


def build_model(config: ml_collections.ConfigDict, num_classes: int) -> Classifier | SpikingResformer:
    """The classifier of a configuration: a SpikingResformer where `config.resformer` has channels.

    Raises:
      UserError: a value out of range, or one of `config.model` that a SpikingResformer has no place for.
    """
    if config.resformer.channels:
        return _build_resformer(config, num_classes)
    model = Classifier(build_backbone(config), num_classes, config.model.distillation_head)
    _check(model, config)
    return model


def _build_resformer(config: ml_collections.ConfigDict, num_classes: int) -> SpikingResformer:
    for name, value in config.model.items():
        default = NETWORK_KEYS[f"model.{name}"].default
        if name not in OF_RESFORMER and value != default:
            raise UserError(
                f"config.model.{name}={value!r}, but config.resformer.channels asks for a SpikingResformer, "
                f"which has no choice of it; expected {default!r}"
            )
    fields: dict[str, Any] = config.resformer.to_dict()
    fields = {name: tuple(v) if isinstance(v, tuple | list) else v for name, v in fields.items()}
    dtype = DTYPES[config.model.dtype]
    model = SpikingResformer(
        **fields,
        num_classes=num_classes,
        in_channels=config.data.channels,
        **{name: config.model[name] for name in OF_RESFORMER if name != "dtype"},
        dtype=dtype,
        param_dtype=param_dtype_of(dtype),
    )
    _check(model, config)
    return model


def param_dtype_of(dtype: Any) -> Any:
    """The type of the variables of a network whose products have operands of a type."""
    return jnp.float64 if dtype is jnp.float64 else jnp.float32


def build_segmenter(config: ml_collections.ConfigDict, num_classes: int) -> Segmenter:
    """The segmenter of a configuration.

    Raises:
      UserError: a value out of range.
    """
    _require_nothing_of_classifiers(config)
    fields = {name: config.model[name] for name in OF_SEGMENTER}
    model = Segmenter(build_backbone(config), num_classes, **fields)
    _check(model, config)
    return model


def build_detector(config: ml_collections.ConfigDict, num_classes: int) -> MaskRCNN:
    """The detector of a configuration.

    Raises:
      UserError: a value out of range.
    """
    _require_nothing_of_classifiers(config)
    fields = {name: config.model[name] for name in OF_DETECTOR}
    model = MaskRCNN(build_backbone(config), num_classes, **fields)
    _check(model, config)
    return model


def _require_nothing_of_classifiers(config: ml_collections.ConfigDict) -> None:
    if config.model.distillation_head:
        raise UserError("config.model.distillation_head=True: only a classifier has such a head")
    if config.resformer.channels:
        raise UserError(
            f"config.resformer.channels={config.resformer.channels}: only a classifier is a SpikingResformer"
        )


def build_backbone(config: ml_collections.ConfigDict) -> Backbone:
    """The backbone of a configuration; raises UserError for bits rules that are none."""
    fields = {k: v for k, v in config.model.to_dict().items() if k not in (*OF_CLASSIFIER, *OF_DETECTOR)}
    dtype = DTYPES[fields.pop("dtype")]
    return Backbone(
        **{
            **fields,
            "channels": tuple(config.model.channels),
            "bits_rules": _bits_rules(config.model.bits_rules),
        },
        in_channels=config.data.channels,
        dtype=dtype,
        param_dtype=param_dtype_of(dtype),
    )


def _check(model: Network, config: ml_collections.ConfigDict) -> None:
    """Lets the network check its own values; no array is made here."""
    try:
        shapes = network_shapes(model, config)
    except ValueError as error:
        section = "resformer" if isinstance(model, SpikingResformer) else "model"
        raise UserError(f"config.{section}: {error}") from None
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    require_memory(held, "the weights of config.model")


def network_shapes(model: Network, config: ml_collections.ConfigDict) -> Any:
    """Shape and type of each variable of the network that a configuration describes."""
    height, width = config.data.image_size
    shape = (config.model.norm_group or 1, height, width, config.data.channels)
    image = jax.ShapeDtypeStruct(shape, numerics_of(model).param_dtype)
    return _initialized.eval_shape(model, jax.random.key(0), image)


@functools.partial(jax.jit, static_argnames="model")
def _initialized(model: Model, key: jax.Array, image: jax.Array) -> Any:
    """Its variables; equal networks are traced once."""
    return model.init(key, image, train=True)


def _bits_rules(rules: Sequence[Any]) -> tuple[BitsRule, ...]:
    """Of pairs, whose types the flag parser does not check."""
    for rule in rules:
        if not (isinstance(rule, tuple | list) and [type(part) for part in rule] == [str, int]):
            raise UserError(f"config.model.bits_rules has {rule!r}; expected pairs like ('head', 8)")
    try:
        return tuple(BitsRule(pattern=pattern, bits=bits) for pattern, bits in rules)
    except ValueError as error:
        raise UserError(f"config.model.bits_rules: {error}") from None
