"""What moves the score of a class: its gradient in the pixels, and Grad-CAM at the last stage.

Spikes are counted by a staircase, whose derivative is 0 wherever it exists. Gradients are those of training:
the surrogate slope stands in the place of the derivative (`core.surrogates`). They say what the network would
learn from, and are no derivative of the scores that evaluation gives.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from qsdt_jax.models import Classifier, SpikingResformer


class Gradients(NamedTuple):
    """Of one class's score for one image.

    Attributes:
      image: of the shape of the image, the gradient in what the network takes.
      features: (T, h, w, C) the residual stream after the last stage.
      of_features: the gradient in it.
    """

    image: jax.Array
    features: jax.Array
    of_features: jax.Array


def gradients(
    model: Classifier | SpikingResformer, variables: Mapping[str, Any], image: jax.Array, target: int
) -> Gradients:
    """Gradients of a class's score, the mean over the time steps, in evaluation.

    Args:
      model: a classifier, with any neuron.
      variables: of it.
      image: (H, W, C) or (T, H, W, C) as the network takes it.
      target: the class.
    """
    return _gradients(model, variables, image, jnp.int32(target))


@functools.partial(jax.jit, static_argnums=0)
def _gradients(
    model: Classifier | SpikingResformer, variables: Mapping[str, Any], image: jax.Array, target: jax.Array
) -> Gradients:
    last = last_block(model)

    def score(image: jax.Array, probe: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = []

        def probed(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if context.module.path != (last,) or context.method_name != "__call__":
                return y
            found.append(y)
            return y + probe  # Of zeros: its gradient is the one in y.

        with nn.intercept_methods(probed):
            logits = model.apply(variables, image[None])
        return logits[0, target], found[0]  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]

    def stream(variables: Mapping[str, Any], image: jax.Array) -> jax.Array:
        stages: Any = model.apply(variables, image[None], method="features")
        return [*stages.values()][-1]

    shape = jax.eval_shape(stream, variables, image)
    slopes, features = jax.grad(score, argnums=(0, 1), has_aux=True)(
        image, jnp.zeros(shape.shape, shape.dtype)
    )
    return Gradients(slopes[0], features, slopes[1])


def last_block(model: Classifier | SpikingResformer) -> str:
    """The name of the module that gives the residual stream after the last stage."""
    if isinstance(model, SpikingResformer):
        return f"stage3_gwffn{model.depths[-1] - 1}"
    return model.backbone.block_names[-1]


def saliency(gradient: np.ndarray) -> np.ndarray:
    """The largest size of a gradient over the channels (Simonyan et al., 2014): (H, W) of (H, W, C).

    Of frames (T, H, W, C) the largest over these too.
    """
    return np.abs(gradient).reshape(-1, *gradient.shape[-3:]).max((0, 3))


def grad_cam(features: np.ndarray, of_features: np.ndarray) -> np.ndarray:
    """Grad-CAM (Selvaraju et al., 2017): max(0, sum over t, c of w_tc F_tc) at each place.

    w_tc is the mean of the gradient over the places. Each channel of each time step has its own.

    Args:
      features, of_features: (T, h, w, C) as of `Gradients`.

    Returns:
      float64 (h, w), not negative.
    """
    weights = of_features.astype(np.float64).mean((1, 2))
    return np.maximum(np.einsum("tc,thwc->hw", weights, features.astype(np.float64)), 0)
