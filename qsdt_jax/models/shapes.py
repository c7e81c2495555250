"""Shape and type of each variable of a network, none of which is made."""

import functools
from typing import Any

import jax

from qsdt_jax.models.backbone import STRIDE, Backbone
from qsdt_jax.models.classifier import Classifier
from qsdt_jax.models.detector import MaskRCNN
from qsdt_jax.models.resformer import SpikingResformer
from qsdt_jax.models.segmenter import Segmenter

Model = Backbone | Classifier | Segmenter | MaskRCNN | SpikingResformer


def variable_shapes(model: Model) -> Any:
    """As of `model.init`: {"params": ..., "batch_stats": ...} of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: a field of the model is out of range, or a bits rule fits no layer.
    """
    of = model if isinstance(model, Backbone | SpikingResformer) else model.backbone
    image = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, of.in_channels), of.numerics.real_dtype)
    return _initialized.eval_shape(model, jax.random.key(0), image)


@functools.partial(jax.jit, static_argnames="model")
def _initialized(model: Model, key: jax.Array, image: jax.Array) -> Any:
    """Its variables; equal networks are traced once."""
    return model.init(key, image, method="features" if isinstance(model, Backbone) else "__call__")
