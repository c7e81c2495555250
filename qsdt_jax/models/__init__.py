"""Networks on the quantized spike-driven backbone, and one that they are compared with."""

from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.classifier import SIZES, Classifier, QSDTransformer
from qsdt_jax.models.detector import MaskRCNN
from qsdt_jax.models.initial import init_variables
from qsdt_jax.models.resformer import SpikingResformer
from qsdt_jax.models.segmenter import Segmenter
from qsdt_jax.models.zoo import create_model, list_models

__all__ = [
    "SIZES",
    "Backbone",
    "Classifier",
    "MaskRCNN",
    "QSDTransformer",
    "Segmenter",
    "SpikingResformer",
    "create_model",
    "init_variables",
    "list_models",
]
