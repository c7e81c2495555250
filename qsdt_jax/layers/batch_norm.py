"""Batch normalisation with PyTorch's running statistics, statistics groups and a border."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.exact import rounded
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

        values = x.real
        per_group = (self._group_count(x.shape[0]), -1, *x.shape[1:-1])
        groups = values.reshape(*per_group, *features, self.shared)
        everywhere = not self.numerics.norm_group
        y, mean, var = _normalize_by_batch(groups.swapaxes(-1, -2), scale, bias, everywhere)
        y = y.swapaxes(-1, -2).reshape(x.shape)
        # What each group alone would leave as running statistics, (G, C).
        count = groups[0, ..., 0, :].size * (device_count() if everywhere else 1)
        group_mean = _moved(running_mean.value, mean)
        group_var = _moved(running_var.value, var * (count / max(count - 1, 1)))
        if not self.is_initializing():
            running_mean.value = jnp.mean(group_mean, 0)
            running_var.value = jnp.mean(group_var, 0)
        if not self.border:
            return Affine(y)
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

    def _group_count(self, rows: int) -> int:
        per_group = self.numerics.norm_group * self.numerics.timesteps
        if not per_group:
            return 1
        if rows % per_group:
            raise ValueError(
                f"a batch of {rows // self.numerics.timesteps} images does not divide into "
                f"batch-norm groups of {self.numerics.norm_group}"
            )
        return rows // per_group


def normalize_by_running(
    x: Affine, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array
) -> Affine:
    """(x - mean) * scale / sqrt(var + eps) + bias, composed with what x is already; vectors (C,)."""
    return (x - mean) * (scale / rounded(jnp.sqrt(var + EPSILON))) + bias


def _normalize_by_batch(x: jax.Array, scale: jax.Array, bias: jax.Array, everywhere: bool):
    """Batch norm of x (G, ..., C): y, and without gradient the mean and biased variance (G, C).

    The statistics are those of all devices' pixels where `everywhere`, else of this device's.

    The gradient in closed form reads x and dy twice and keeps x alone; what autodiff makes of the forward
    pass keeps a quarter more memory and takes 1.1 to 1.15 times as long on CPU.
    """
    return _normalize_forward(x, scale, bias, everywhere)[0]


def _pixels(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


@functools.partial(jax.jit, static_argnums=3)
def _normalize_forward(x, scale, bias, everywhere):
    over_devices = mean_over_devices if everywhere else lambda statistic: statistic
    mean = over_devices(jnp.mean(x, _pixels(x), keepdims=True))
    var = over_devices(jnp.mean(jnp.square(x - mean), _pixels(x), keepdims=True))
    inverse = jax.lax.rsqrt(var + EPSILON)
    y = (x - mean) * (inverse * scale) + bias
    per_group = (x.shape[0], x.shape[-1])
    return (y, mean.reshape(per_group), var.reshape(per_group)), (x, mean, inverse, scale, bias)


@functools.partial(jax.jit, static_argnums=0)
def _normalize_backward(everywhere, residuals, grads):
    """Gradients of x, scale and bias, with x_hat = (x - mean) / std and y = scale x_hat + bias.

    dL/dbias = sum(dy)  and  dL/dscale = sum(dy x_hat).  With g = dL/dx_hat = scale dy, over n pixels:
    x moves y directly, through the mean (dmean/dx = 1/n) and through the variance (dvar/dx = 2 (x - mean)/n):
    dL/dmean = -sum(g) / std,  as sum(x - mean) = 0;   dL/dvar = -sum(g x_hat) / (2 std^2).
    Added up:  dL/dx = (g - mean(g) - x_hat mean(g x_hat)) / std
                     = scale / std (dy - mean(dy) - x_hat mean(dy x_hat)).
    The means go over the pixels of the statistics; the gradients of scale and bias stay this device's.
    """
    x, mean, inverse, scale, bias = residuals
    dy, count = grads[0], x[0, ..., 0].size
    grad_bias = jnp.sum(dy, _pixels(x), keepdims=True)
    grad_scale = jnp.sum(dy * (x - mean), _pixels(x), keepdims=True) * inverse
    sum_scale, sum_bias = grad_scale, grad_bias
    if everywhere:
        sum_scale, sum_bias = mean_over_devices((grad_scale, grad_bias))
    along_x = (x - mean) * (inverse * sum_scale / count)
    grad_x = (inverse * scale) * (dy - sum_bias / count - along_x)
    return (
        grad_x.astype(x.dtype),
        jnp.sum(grad_scale, tuple(range(x.ndim - 1))).astype(scale.dtype),
        jnp.sum(grad_bias, tuple(range(x.ndim - 1))).astype(bias.dtype),
    )


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
