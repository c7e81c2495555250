"""The network of a configuration."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.memory import require_memory
from qsdt_jax.models import Classifier, QSDTransformer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


def require_classifier(model: Any, where: str) -> Classifier:
    """A task's network, for whoever looks inside of it; raises UserError where it is of another kind."""
    if not isinstance(model, Classifier):
        raise UserError(f"{where} has a network of its own, {type(model).__name__}; expected a Classifier")
    return model


def build_model(config: ml_collections.ConfigDict, num_classes: int) -> Classifier:
    """The classifier of a configuration.

    Raises:
      UserError: a value out of range.
    """
    fields = config.model.to_dict()
    dtype = DTYPES[fields.pop("dtype")]
    bits_rules = _bits_rules(fields.pop("bits_rules"))
    real = jnp.float64 if dtype is jnp.float64 else jnp.float32
    model = QSDTransformer(
        **{**fields, "channels": tuple(config.model.channels)},
        bits_rules=bits_rules,
        num_classes=num_classes,
        in_channels=config.data.channels,
        dtype=dtype,
        param_dtype=real,
    )
    height, width = config.data.image_size
    batch = config.model.norm_group or 1
    image = jax.ShapeDtypeStruct((batch, height, width, config.data.channels), real)
    try:  # The network checks its own values; no array is made here.
        shapes = _initialized.eval_shape(model, jax.random.key(0), image)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from None
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    require_memory(held, "the weights of config.model")
    return model


@functools.partial(jax.jit, static_argnames="model")
def _initialized(model: Classifier, key: jax.Array, image: jax.Array) -> Any:
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
