"""The published networks by name."""

import dataclasses
from typing import Any

from qsdt_jax.errors import UserError
from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.classifier import SIZES, Classifier, QSDTransformer
from qsdt_jax.nearest import nearest

PREFIX = "qsd_"


def list_models() -> list[str]:
    """The names that `create_model` takes, such as "qsd_s"."""
    return [PREFIX + size.lower() for size in SIZES]


def create_model(name: str, **fields: Any) -> Classifier:
    """A network of a published size, with 4-bit weights and D = 4 where nothing else is asked for.

    Args:
      name: one of `list_models()`.
      fields: of `Classifier` and `Backbone` that differ, such as num_classes=10, bits=2 or timesteps=4.

    Raises:
      UserError: an unknown name or field, with the nearest that there is.
    """
    models = dict(zip(list_models(), SIZES.values(), strict=True))
    if name not in models:
        raise UserError(f"no model {name!r}; there are {', '.join(models)}{nearest(name, models)}")
    fields_of = (*dataclasses.fields(Backbone), *dataclasses.fields(Classifier))
    known = {field.name for field in fields_of} - {"backbone", "parent", "name"}
    for field in fields:
        if field not in known:
            raise UserError(f"a network has no field {field!r}{nearest(field, sorted(known))}")
    return QSDTransformer(**{**models[name], **fields})
