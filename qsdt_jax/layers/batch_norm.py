"""Batch normalisation with PyTorch's running statistics, statistics groups and a border."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.core.affine import Affine, Normalized
from qsdt_jax.core.exact import rounded
from qsdt_jax.core.kept import kept
from qsdt_jax.devices import device_count, mean_over_devices
from qsdt_jax.layers.numerics import Numerics

EPSILON = 1e-5
MOMENTUM = 0.1  # PyTorch's sense: new = 0.9 old + 0.1 batch.


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last.

    Normalises with the biased batch variance and keeps the unbiased one (n / (n - 1)) as PyTorch does.
    With `numerics.norm_group = n` each group of n consecutive images has its own statistics, as n images
    on a device of the published code have. Each group's border follows from the running statistics that
    it alone would leave; the running statistics kept are their mean over the groups.
    With `norm_group = 0` the whole batch is one group, on whatever devices it lies. In a pmapped step the
    mean over groups is that of this device's groups, and the step takes the mean over devices.

    Directly behind another batch norm it needs no pass over its input: the mean is the other's bias, and the
    variance follows from the other's. Both are computed as one, from what the first was given.

    In evaluation it is an affine map per channel and is composed with what is before and behind it: of a
    product that is not yet scaled it makes another one, whose border is the product's zeros. With
    `numerics.freeze_statistics` it is that map in training as well.

    Attributes:
      numerics: shared numerical choices.
      shared: neighbouring channels that have statistics and affine in common.
      border: pixels of padding after the normalisation, with the value that it gives to zero, computed
        from the running statistics, already updated by this step, and without gradient (the published
        code's "BN with border").
      scale_init, bias_init: initial affine.
    """

    numerics: Numerics
    shared: int = 1
    border: int = 0
    scale_init: float = 1.0
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: Affine, train: bool) -> Affine:
        """x (N, ..., C), what a layer gives -> the same shape, padded by `border` on axes 1 and 2.

        An array is given as `Affine(array)`.

        Raises:
          TypeError: x is no `Affine`.
          ValueError: the images do not divide into groups of `norm_group`.
        """
        if not isinstance(x, Affine):
            raise TypeError(f"BatchNorm takes an Affine, got {type(x).__name__}; an array x is Affine(x)")
        dtype = self.numerics.param_dtype
        features = (x.shape[-1] // self.shared,)
        scale = self.param("scale", nn.initializers.constant(self.scale_init), features, dtype)
        bias = self.param("bias", nn.initializers.constant(self.bias_init), features, dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, dtype)

        if not train or self.numerics.freeze_statistics:
            vectors = (scale, bias, running_mean.value, running_var.value)
            return self._evaluate(x, *(jnp.repeat(v, self.shared) for v in vectors))

        before = x.normalized if self.shared == 1 else None
        if before is None:
            values, scales = x.real, (scale,)
        else:
            values, scales = before.values, (*before.scales, scale)
        per_group = (self.numerics.group_count(x.shape[0]), -1, *x.shape[1:-1])
        groups = values.reshape(*per_group, *features, self.shared).swapaxes(-1, -2)
        everywhere = not self.numerics.norm_group
        y, mean, var = _normalize_by_batch(groups, scales, bias, everywhere)
        y = y.swapaxes(-1, -2).reshape(x.shape)
        if before is not None:
            mean = jnp.broadcast_to(before.bias, mean.shape)
        # What each group alone would leave as running statistics, (G, C).
        count = groups[0, ..., 0].size * (device_count() if everywhere else 1)
        group_mean = _moved(running_mean.value, mean)
        group_var = _moved(running_var.value, var * (count / max(count - 1, 1)))
        if not self.is_initializing():
            running_mean.value = jnp.mean(group_mean, 0)
            running_var.value = jnp.mean(group_var, 0)
        if not self.border:
            given = Normalized(values, scales, bias) if self.shared == 1 else None
            return Affine(y, normalized=given)
        zero = bias - group_mean * (jax.lax.rsqrt(group_var + EPSILON) * scale)
        return Affine(_pad(y, jax.lax.stop_gradient(zero), self.border))

    def _evaluate(self, x: Affine, scale, bias, mean, var) -> Affine:
        if x.scale is None:
            unscaled = Affine(x.values, scale=jnp.ones_like(scale), shift=jnp.zeros_like(scale))
            y = normalize_by_running(unscaled, scale, bias, mean, var)
            return Affine(
                _pad(y.real, jax.lax.stop_gradient(y.shift)[None], self.border) if self.border else y.real
            )
        y = normalize_by_running(x, scale, bias, mean, var)
        return y.padded(self.border) if self.border else y


def normalize_by_running(
    x: Affine, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array
) -> Affine:
    """(x - mean) * scale / sqrt(var + eps) + bias, composed with what x is already; vectors (C,)."""
    return (x - mean) * (scale / rounded(jnp.sqrt(var + EPSILON))) + bias


def _normalize_by_batch(x: jax.Array, scales: tuple[jax.Array, ...], bias: jax.Array, everywhere: bool):
    """Batch norms of x (G, ..., C), one behind the other: y, and without gradient mean and variance (G, C).

    Each has a scale of `scales`, and only the last one's bias matters: what the others add, the next takes
    away. The mean is that of x, the biased variance that of what the last one is given.
    The statistics are those of all devices' pixels where `everywhere`, else of this device's.

    The gradient in closed form reads x and dy twice and keeps x alone; what autodiff makes of the forward
    pass keeps a quarter more memory and takes 1.1 to 1.15 times as long on CPU.
    """
    return _normalize_forward(x, scales, bias, everywhere)[0]


def _pixels(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _statistics(x: jax.Array, everywhere: bool) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of x (G, ..., C), in one pass over x; the axes of pixels have length 1.

    It adds up distances from a pixel of each group, and their squares. The variance is off by about
    ((mean - that pixel) / standard deviation)^2 units in the last place.
    """
    pixel = x[(slice(None), *(slice(1) for _ in _pixels(x)))]
    distance = x - pixel
    shift = jnp.mean(distance, _pixels(x), keepdims=True)
    square = jnp.mean(jnp.square(distance), _pixels(x), keepdims=True)
    mean, var = pixel + shift, jnp.maximum(square - jnp.square(shift), 0)
    if not everywhere or device_count() == 1:
        return mean, var
    of_all = mean_over_devices(mean)
    return of_all, mean_over_devices(var + jnp.square(mean - of_all))


def _factor(var: jax.Array, scales: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """What batch norms one behind the other multiply by, and the variance that the last one is given."""
    factor, given = jnp.ones_like(var), var
    for scale in scales:
        given = var * jnp.square(factor)
        factor = factor * jax.lax.rsqrt(given + EPSILON) * scale
    return factor, given


@functools.partial(jax.jit, static_argnums=3)
def _normalize_forward(x, scales, bias, everywhere):
    mean, var = map(kept, _statistics(x, everywhere))
    factor, given = _factor(var, scales)
    y = (x - mean) * factor + bias
    per_group = (x.shape[0], x.shape[-1])
    residuals = (x, mean, var, scales, bias)
    return (y, mean.reshape(per_group), given.reshape(per_group)), residuals


@functools.partial(jax.jit, static_argnums=0)
def _normalize_backward(everywhere, residuals, grads):
    """Gradients of x, scales and bias, with y = factor (x - mean) + bias and factor = f(var, scales).

    dL/dbias = sum(dy)  and  dL/dfactor = sum(dy (x - mean)), which f, of vectors, hands on to var and scales.
    Over n pixels x moves y directly, through the mean (dmean/dx = 1/n) and through the variance
    (dvar/dx = 2 (x - mean)/n);  dL/dmean = -factor sum(dy),  as sum(x - mean) = 0:
    dL/dx = factor (dy - mean(dy)) + 2 (x - mean)/n dL/dvar.
    The means go over the pixels of the statistics; the gradients of scales and bias stay this device's.
    """
    x, mean, var, scales, bias = residuals
    dy = grads[0]
    count = x[0, ..., 0].size
    grad_bias = jnp.sum(dy, _pixels(x), keepdims=True)
    grad_factor = jnp.sum(dy * (x - mean), _pixels(x), keepdims=True)
    (factor, _), through = jax.vjp(_factor, var, scales)
    grad_var, grad_scales = through((grad_factor, jnp.zeros_like(var)))
    sum_bias = grad_bias
    if everywhere and device_count() > 1:
        sum_factor, sum_bias = mean_over_devices((grad_factor, grad_bias))
        grad_var, _ = through((sum_factor, jnp.zeros_like(var)))
    grad_x = factor * (dy - sum_bias / count) + (x - mean) * (grad_var * (2 / count))
    grad_bias = jnp.sum(grad_bias, tuple(range(x.ndim - 1))).astype(bias.dtype)
    return grad_x, grad_scales, grad_bias


# Not as a decorator, under which type checkers lose the signature.
_normalize_by_batch = jax.custom_vjp(_normalize_by_batch, nondiff_argnums=(3,))
_normalize_by_batch.defvjp(_normalize_forward, _normalize_backward)


@jax.jit
def _moved(running: jax.Array, batch: jax.Array) -> jax.Array:
    """Running statistics (C,) moved towards the batch's (G, C) -> (G, C)."""
    batch = jax.lax.stop_gradient(batch).astype(running.dtype)
    return (1 - MOMENTUM) * running + MOMENTUM * batch


def _pad(x: jax.Array, values: jax.Array, border: int) -> jax.Array:
    """Pads axes 1 and 2 of x (N, H, W, C) with values (G, C), one row for each group of images."""
    edges = ((0, 0), (border, border), (border, border), (0, 0))
    inside = jnp.pad(jnp.ones((1, *x.shape[1:3], 1), jnp.bool_), edges)
    values = jnp.repeat(values, x.shape[0] // values.shape[0], axis=0)[:, None, None, :]
    return jnp.where(inside, jnp.pad(x, edges), values)
