"""Networks on the quantized spike-driven backbone."""

from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.classifier import SIZES, Classifier, QSDTransformer

__all__ = ["SIZES", "Backbone", "Classifier", "QSDTransformer"]
