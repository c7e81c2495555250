"""The values that training starts with, tensor by tensor, against what the published code draws.

Its layers are PyTorch's and timm's: convolutions `kaiming_uniform_(a=sqrt(5))`, which is uniform in
+-1/sqrt(fan_in), as is their bias; the head `trunc_normal_(std=.02)`, which is cut at +-2 and not at two
standard deviations, with a bias of zero; batch norm 1 and 0. A segmenter's neck is mmcv's `xavier_init`,
uniform in +-sqrt(6 / (fan_in + fan_out)), its layer of classes normal of 0.01; biases of both are zero. The
rest is said beside its statement below. A tensor of a kind without a statement fails.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from configs import digits
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.jit_once import jit_once
from qsdt_jax.models import Backbone, QSDTransformer, Segmenter
from qsdt_jax.models.caformer import CAFormer
from qsdt_jax.train.step import initial_state

# Standard errors that a moment may be off, and the logarithm of the chance of an extreme beyond its bound.
# Each rules out an accident of one in a million.
ERRORS = 5
RARE = math.log(1e-6)

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """In +-bound."""

    bound: float

    @property
    def std(self) -> float:
        return self.bound / math.sqrt(3)

    @property
    def kurtosis(self) -> float:
        return 9 / 5

    def extremes(self, count: int) -> tuple[float, float]:
        """Between what the largest magnitude of `count` draws lies: all lie below x with chance (x / b)^n."""
        return self.bound * math.exp(RARE / count), self.bound

    def distribution(self, x: np.ndarray) -> np.ndarray:
        return stats.uniform.cdf(x, -self.bound, 2 * self.bound)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Of mean 0, cut where |x| exceeds `cut`, so far out that this takes nothing from its spread."""

    std: float
    cut: float = 2.0

    @property
    def kurtosis(self) -> float:
        return 3.0

    def extremes(self, count: int) -> tuple[float, float]:
        lowest = stats.norm.ppf((1 + math.exp(RARE / count)) / 2)
        highest = stats.norm.isf(math.exp(RARE) / 2 / count)
        return self.std * float(lowest), min(self.cut, self.std * float(highest))

    def distribution(self, x: np.ndarray) -> np.ndarray:
        return stats.norm.cdf(x, 0, self.std)


Statement = Uniform | Normal | float


def stated(path: str, tensors: Tensors, options: Mapping[str, Any]) -> Statement:
    """How the tensor of a path starts: its distribution, or the value that all of it has."""
    layer, _, name = path.rpartition("/")
    kernel = tensors.get(f"{layer}/kernel")
    match name:
        case "kernel" if re.search(r"/head(_dist)?$", layer) and kernel.ndim == 2:
            return Normal(0.02)
        case "kernel" if layer.endswith("/seg_head/classifier"):
            return Normal(0.01)
        case "kernel" if "/fpn/" in layer:
            *taps, fan_in, fan_out = kernel.shape
            return Uniform(math.sqrt(6 / (math.prod(taps) * (fan_in + fan_out))))
        case "bias" if kernel is not None and re.search(r"/(fpn|seg_head)/", layer):
            return 0.0
        case "kernel" if kernel.ndim == 4:
            return Uniform(1 / math.sqrt(math.prod(kernel.shape[:3])))
        case "bias" if kernel is not None and kernel.ndim == 2:
            return 0.0
        case "bias" if kernel is not None:
            return Uniform(1 / math.sqrt(math.prod(kernel.shape[:3])))
        case "step_size":  # The published code takes this value in the first forward pass.
            largest = 2 ** (options.get("bits", 4) - 1) - 1
            return 2 * float(np.mean(np.abs(kernel), dtype=np.float64)) / math.sqrt(largest)
        case "scale" | "bias" if layer.endswith("_rectify/norm"):  # Ours: std 1/4 and mean 1/2.
            return {"scale": 0.25, "bias": 0.5}[name]
        case "scale" | "var" if re.search(r"/(\w+_)?bn\d?$|_rectify/norm$", layer):
            return 1.0
        case "bias" | "mean" if re.search(r"/(\w+_)?bn\d?$|_rectify/norm$", layer):
            return 0.0
        case "layer_scale1" | "layer_scale2":
            return options.get("layer_scale_init", 1e-6)
    raise AssertionError(f"nobody has said how {path} {tensors[path].shape} starts")


def flattened(variables: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def check(path: str, values: np.ndarray, statement: Statement) -> None:
    """One tensor: its value, or its moments and bounds."""
    if isinstance(statement, float):
        # A step size is a mean in float32, of some thousand weights here.
        np.testing.assert_allclose(values, statement, rtol=1e-5, err_msg=path)
        return
    count, values = values.size, values.astype(np.float64)
    assert abs(np.mean(values)) < ERRORS * statement.std / math.sqrt(count), path
    # Var(x^2) = (kurtosis - 1) std^4, around the known mean.
    error = math.sqrt((statement.kurtosis - 1) / count)
    assert abs(np.mean(values**2) / statement.std**2 - 1) < ERRORS * error, path
    least, most = statement.extremes(count)
    assert least <= np.max(np.abs(values)) <= most * (1 + 1e-6), path


def check_all(tensors: Tensors, options: Mapping[str, Any]) -> set[str]:
    """Every tensor alone, and those of a kind together, whose whole distribution their number shows."""
    together: dict[type, list[np.ndarray]] = {}
    for path, values in tensors.items():
        statement = stated(path, tensors, options)
        check(path, values, statement)
        if not isinstance(statement, float):
            values = values.astype(np.float64).ravel()
            together.setdefault(type(statement), []).append(statement.distribution(values))
    for kind, probabilities in together.items():
        # Half of the numbers of a normal are beyond its quartiles, and so on: then these are even in 0..1.
        assert stats.kstest(np.concatenate(probabilities), "uniform").pvalue > 1e-4, kind
        firsts = [tuple(np.round(values[:4], 6)) for values in probabilities]
        assert len(set(firsts)) == len(firsts), f"two tensors of kind {kind} are the same draws"
    return {kind.__name__ for kind in together}


NET = {"channels": (16, 32, 48, 64), "depth": 2, "num_classes": 1000}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"bits": 8, "rectify": "norm", "distillation_head": True, "layer_scale_init": 1e-3},
            marks=pytest.mark.slow,
        ),
        {"bits": 1},
        {"bits": 32, "neuron": "relu", "attention": "softmax"},
    ],
    ids=str,
)
def test_every_tensor_starts_as_stated(options):
    model = QSDTransformer(**{**NET, **options})
    variables = jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    tensors = flattened(variables)
    assert check_all(tensors, options) == {"Uniform", "Normal"}
    step_sizes = sum(path.endswith("/step_size") for path in tensors)
    kernels = sum(path.endswith("/kernel") for path in tensors)
    assert step_sizes == (0 if options.get("bits") in (1, 32) else kernels) and kernels > 50


@pytest.mark.slow
def test_a_run_starts_with_them():
    """Through all that lies between a configuration and the state of step 0, EMA included."""
    config = digits.get_config()
    config.model.update(channels=(16, 32, 48, 64), depth=2)
    task = build_task(config, numbers(1000))
    state = jit_once(lambda: initial_state(task, optax.identity(), seed=3, ema=True))()
    for variables in (state.variables, state.ema):
        check_all(flattened(variables), {"layer_scale_init": 0.1})


@pytest.mark.slow
def test_every_tensor_of_a_segmenter_starts_as_stated():
    model = Segmenter(Backbone(channels=(8, 8, 16, 24), depth=2, bits=1), num_classes=150, fpn_channels=24)
    tensors = flattened(jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    assert check_all(tensors, {"bits": 1}) == {"Uniform", "Normal"}
    assert {"params/fpn/output3/conv/kernel", "params/seg_head/branch3_2/conv/kernel"} <= tensors.keys()


def test_a_kind_that_nobody_has_stated_fails():
    shapes = {"params/block3_0/gain": (8,), "params/gate/kernel": (8, 8), "params/bias": (8,)}
    for path, shape in shapes.items():
        with pytest.raises(AssertionError, match="nobody has said how"):
            stated(path, {path: np.zeros(shape)}, {})


KERNEL, HEAD = "params/downsample3/conv/kernel", "params/head/kernel"


def cut_at_two_std(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return 0.02 * stats.truncnorm.rvs(-2, 2, size=shape, random_state=draw)


@pytest.mark.parametrize(
    ("path", "shape", "other"),
    [
        (HEAD, (64, 10), lambda draw, shape: 10 * 0.02 * draw.standard_normal(shape)),
        (HEAD, (64, 1000), cut_at_two_std),
        (HEAD, (64, 1000), lambda draw, shape: 0.02 * 1.1 * draw.standard_normal(shape)),
        (KERNEL, (3, 3, 8, 16), lambda draw, shape: 6 / math.sqrt(72) * draw.uniform(-1, 1, shape)),
        (KERNEL, (3, 3, 8, 16), lambda draw, shape: math.sqrt(1 / 3 / 72) * draw.standard_normal(shape)),
        (KERNEL, (3, 3, 8, 16), lambda draw, shape: 1 / math.sqrt(16 * 9) * draw.uniform(-1, 1, shape)),
        (KERNEL, (3, 3, 8, 96), lambda draw, shape: 1 / math.sqrt(72) * draw.uniform(-0.9, 1, shape)),
        (
            "params/fpn/output0/conv/kernel",
            (3, 3, 8, 96),
            lambda draw, shape: draw.uniform(-1, 1, shape) / 72**0.5,
        ),
        (
            "params/seg_head/classifier/kernel",
            (1, 1, 64, 150),
            lambda draw, shape: 0.02 * draw.standard_normal(shape),
        ),
        ("params/block3_0/layer_scale1", (8,), lambda draw, shape: np.full(shape, 1e-5)),
    ],
    ids=[
        "ten times",
        "cut at 2 std",
        "a tenth more",
        "six times",
        "normal",
        "fan_out",
        "lopsided",
        "neck",
        "classes",
        "scale",
    ],
)
def test_other_draws_are_noticed(path, shape, other):
    """The tolerances follow from the number of values; these are what they must tell apart."""
    tensors = {path: other(np.random.default_rng(0), shape)}
    with pytest.raises(AssertionError):
        check_all(tensors, {})


def test_teacher_of_timm():
    """CAFormer is loaded and not trained here, but says of itself what timm's starts with."""
    model = CAFormer(channels=(16, 24, 32, 64), depths=(1, 1, 1, 1), num_classes=1000)
    tensors = flattened(jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    kernels = {path: values for path, values in tensors.items() if path.endswith("/kernel")}
    for path, values in kernels.items():
        check(path, values, Normal(0.02))
    for path in tensors.keys() - kernels.keys():
        check(path, tensors[path], 0.0 if path.endswith("/bias") else 1.0)
