"""The published networks by name."""

import dataclasses
from typing import Any

from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import FLOAT_BITS, BitsRule
from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.classifier import SIZES, Classifier, make_backbone
from qsdt_jax.models.segmenter import Segmenter
from qsdt_jax.nearest import nearest

CLASSIFIERS = {f"qsd_{size.lower()}": fields for size, fields in SIZES.items()}
# For ADE20K, as configs/ade20k_s.py: neck and head float, the attention's factor that of an image of 224.
ADE20K = {"bits_rules": (BitsRule(pattern="(fpn|seg_head)/.*", bits=FLOAT_BITS),), "attention_tokens": 196}
SEGMENTERS = {f"qsd_{size.lower()}_seg": {**ADE20K, **SIZES[size]} for size in ("S", "M", "L")}


def list_models() -> list[str]:
    """The names that `create_model` takes: "qsd_s" is a classifier, "qsd_s_seg" a segmenter."""
    return [*CLASSIFIERS, *SEGMENTERS]


def create_model(name: str, **fields: Any) -> Classifier | Segmenter:
    """A network of a published size, with 4-bit weights and D = 4 where nothing else is asked for.

    Classifiers have the 1000 classes of ImageNet; segmenters have the 150 of ADE20K, with float weights in
    neck and head.

    Args:
      name: one of `list_models()`.
      fields: of `Backbone` and of `Classifier` or `Segmenter` that differ, such as num_classes=10, bits=2 or
        timesteps=4.

    Raises:
      UserError: an unknown name or field, with the nearest that there is.
    """
    models = {**CLASSIFIERS, **SEGMENTERS}
    if name not in models:
        raise UserError(f"no model {name!r}; there are {', '.join(models)}{nearest(name, models)}")
    kind, defaults = Classifier if name in CLASSIFIERS else Segmenter, models[name]
    own, backbone = ({field.name for field in dataclasses.fields(part)} for part in (kind, Backbone))
    known = (own | backbone) - {"backbone", "parent", "name"}
    for field in fields:
        if field not in known:
            raise UserError(f"a network has no field {field!r}{nearest(field, sorted(known))}")
    head = {field: fields.pop(field) for field in own & fields.keys()}
    return kind(make_backbone(**{**defaults, **fields}), **head)
