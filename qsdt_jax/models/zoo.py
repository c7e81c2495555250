"""The published networks by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import FLOAT_BITS, BitsRule
from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.classifier import SIZES, Classifier, make_backbone
from qsdt_jax.models.detector import MaskRCNN
from qsdt_jax.models.resformer import RESFORMERS, SpikingResformer
from qsdt_jax.models.sdtv2 import SDTV2_SIZES
from qsdt_jax.models.segmenter import Segmenter
from qsdt_jax.nearest import nearest

CLASSIFIERS = {
    **{f"qsd_{size.lower()}": fields for size, fields in SIZES.items()},
    **{f"sdtv2_{size.lower()}": fields for size, fields in SDTV2_SIZES.items()},
}
# For ADE20K, as configs/ade20k_s.py: neck and head float, the attention's factor that of an image of 224.
ADE20K = {"bits_rules": (BitsRule(pattern="(fpn|seg_head)/.*", bits=FLOAT_BITS),), "attention_tokens": 196}
SEGMENTERS = {f"qsd_{size.lower()}_seg": {**ADE20K, **SIZES[size]} for size in ("S", "M", "L")}
# For COCO, likewise.
COCO = {
    "bits_rules": (BitsRule(pattern="(det_fpn|rpn|box_head|mask_head)/.*", bits=FLOAT_BITS),),
    "attention_tokens": 196,
}
DETECTORS = {f"qsd_{size.lower()}_det": {**COCO, **SIZES[size]} for size in ("S", "M", "L")}
# What may be otherwise in a network of a name.
FREE = {"num_classes", "in_channels", "timesteps", "distillation_head", "bits_rules", "attention_tokens"}
MODELS = {Classifier: CLASSIFIERS, SpikingResformer: RESFORMERS, Segmenter: SEGMENTERS, MaskRCNN: DETECTORS}


def list_models() -> list[str]:
    """What `create_model` takes.

    "qsd_s", "sdtv2_s" and "spikingresformer_s" are classifiers, "qsd_s_seg" is a segmenter, "qsd_s_det" a
    detector.
    """
    return [name for models in MODELS.values() for name in models]


def published_name(kind: type, fields: Mapping[str, Any]) -> str | None:
    """The name of `list_models()` whose network has these fields, or None.

    Args:
      kind: of network, one of `MODELS`.
      fields: of it and of its `Backbone` where it has one; those that are left out have their defaults.
    """
    defaults = {field.name: field.default for of in (Backbone, kind) for field in dataclasses.fields(of)}
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    for name, known in MODELS[kind].items():
        told = (fields.keys() | known.keys()) - FREE
        if all(fields.get(k, defaults[k]) == known.get(k, defaults[k]) for k in told):
            return name
    return None


def create_model(name: str, **fields: Any) -> Classifier | SpikingResformer | Segmenter | MaskRCNN:
    """A network of a published size, of QSD with 4-bit weights and D = 4 where nothing else is asked for.

    A SpikingResformer has float weights, binary neurons and the time steps of its publication.

    Classifiers have the 1000 classes of ImageNet; segmenters have the 150 of ADE20K and detectors the 80 of
    COCO, with float weights in neck and heads.

    Args:
      name: one of `list_models()`.
      fields: of the network that differ, and of its `Backbone` where it has one, such as num_classes=10,
        bits=2 or timesteps=4.

    Raises:
      UserError: an unknown name or field, with the nearest that there is.
    """
    models = {of: (kind, fields) for kind, models in MODELS.items() for of, fields in models.items()}
    if name not in models:
        raise UserError(f"no model {name!r}; there are {', '.join(models)}{nearest(name, models)}")
    kind, defaults = models[name]
    own = {field.name for field in dataclasses.fields(kind)}
    below = {field.name for field in dataclasses.fields(Backbone)} if "backbone" in own else set()
    known = (own | below) - {"backbone", "parent", "name"}
    for field in fields:
        if field not in known:
            raise UserError(f"a network has no field {field!r}{nearest(field, sorted(known))}")
    if kind is SpikingResformer:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return SpikingResformer(**{**defaults, **fields})
    head = {field: fields.pop(field) for field in own & fields.keys()}
    return kind(make_backbone(**{**defaults, **fields}), **head)
