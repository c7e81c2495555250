"""Initial variables of a network within seconds: their draws are computed by NumPy, the rest not at all.

`model.init` computes a whole forward pass operation by operation, and compiles the random generator again for
each shape of a tensor. Here `model.init` is traced, and of the program only what the variables depend on is
computed, on the host. Nothing is compiled. The values are those of `jax.jit(model.init)`, whose generator
(threefry) is computed here too: uniform draws bit for bit, normal draws to about 1e-5 of each, since SciPy's
inverse error function is another one than XLA's, and step sizes, which are means, to the rounding of their
sums.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from scipy.special import erfinv

from qsdt_jax.jit_once import jit_once
from qsdt_jax.layers.bits_rules import check_rules
from qsdt_jax.models.backbone import STRIDE, Backbone
from qsdt_jax.models.resformer import SpikingResformer
from qsdt_jax.models.shapes import Model

ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)  # Threefry's, in bits, of even and of odd groups of rounds.
PARITY = np.uint32(0x1BD11BDA)
AT_ONCE = 2**15  # Numbers drawn together: what fits the fastest cache.


def init_variables(model: Model, seed: int = 0) -> dict[str, Any]:
    """The variables that a network starts with, as of `model.init`: {"params": ..., "batch_stats": ...}.

    A network with an operation that is not among OPERATIONS is drawn by `jax.jit(model.init)`.

    Args:
      model: a backbone, a classifier, a segmenter, a detector or a SpikingResformer.
      seed: of the draws, 0 to 2^32 - 1; equal seeds give equal values.

    Raises:
      ValueError: the seed or a field of the model is out of range, or a bits rule fits no layer.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed of initial variables is 0 to 2^32 - 1, got {seed}")
    of = model if isinstance(model, Backbone | SpikingResformer) else model.backbone
    images = jnp.zeros((1, STRIDE, STRIDE, of.in_channels), of.numerics.real_dtype)
    method = "features" if isinstance(model, Backbone) else "__call__"

    def init(key: jax.Array) -> dict[str, Any]:
        return dict(model.init(key, images, method=method))

    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    program, shapes = jax.make_jaxpr(init, return_shape=True)(key)
    check_rules(of.numerics.bits_rules, shapes["params"])
    words, needed = np.array([0, seed], np.uint32), _needed(program.jaxpr)
    if not _known(needed):  # Another version of JAX may write the same draws with other operations.
        return jit_once(init)(jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32"))
    leaves = _run(needed, program.consts, [words])
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.array(leaf) for leaf in leaves])


def _needed(program: Jaxpr) -> Jaxpr:
    """The program without the operations that no result depends on."""
    wanted, needed = {v for v in program.outvars if not isinstance(v, Literal)}, []
    for operation in reversed(program.eqns):
        if not wanted.isdisjoint(operation.outvars):
            needed.append(operation)
            wanted.update(v for v in operation.invars if not isinstance(v, Literal))
    return program.replace(eqns=needed[::-1])


def _known(program: Jaxpr) -> bool:
    """Whether `_run` computes every operation of the program."""
    return all(
        _known(operation.params["jaxpr"].jaxpr)
        if operation.primitive.name == "jit"
        else operation.primitive.name in OPERATIONS
        for operation in program.eqns
    )


def _run(program: Jaxpr, constants: Any, inputs: Any) -> list[Any]:
    """The results of a program; a key is uint32 (2,)."""
    values: dict[Any, Any] = dict(zip(program.constvars, constants, strict=True))
    values.update(zip(program.invars, inputs, strict=True))

    def value(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else values[v]

    for operation in program.eqns:
        given = [value(v) for v in operation.invars]
        if operation.primitive.name == "jit":
            inner = operation.params["jaxpr"]
            values.update(zip(operation.outvars, _run(inner.jaxpr, inner.consts, given), strict=True))
        else:
            values[operation.outvars[0]] = OPERATIONS[operation.primitive.name](operation, *given)
    return [value(v) for v in program.outvars]


def _elementwise(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """An operation that NumPy has as a function of arrays, its result in the type of the program."""

    def compute(operation: JaxprEqn, *given: Any) -> np.ndarray:
        result: Any = operation.outvars[0].aval
        return np.asarray(function(*given), result.dtype)

    return compute


def _broadcast(operation: JaxprEqn, x: Any) -> np.ndarray:
    x, shape = np.asarray(x), operation.params["shape"]
    axes = dict(zip(operation.params["broadcast_dimensions"], x.shape, strict=True))
    return np.broadcast_to(x.reshape([axes.get(i, 1) for i in range(len(shape))]), shape)


def _fold_in(operation: JaxprEqn, key: np.ndarray, number: Any) -> np.ndarray:
    """jax.random.fold_in."""
    return np.concatenate(threefry(key, np.zeros(1, np.uint32), np.array([number], np.uint32)))


def _random_bits(operation: JaxprEqn, key: np.ndarray) -> np.ndarray:
    """jax.random.bits: the number at place i of an array depends on the key and i alone."""
    shape, width = operation.params["shape"], operation.params["bit_width"]
    bits = np.empty(math.prod(shape), f"uint{width}")
    for start in range(0, bits.size, AT_ONCE):
        places = np.arange(start, min(start + AT_ONCE, bits.size), dtype=np.uint64)
        high, low = threefry(key, (places >> 32).astype(np.uint32), places.astype(np.uint32))
        whole = high ^ low if width == 32 else high.astype(np.uint64) << 32 | low
        bits[start : start + AT_ONCE] = whole
    return bits.reshape(shape)


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "abs": _elementwise(np.abs),
    "add": _elementwise(np.add),
    "bitcast_convert_type": lambda operation, x: x.view(operation.params["new_dtype"]),
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _elementwise(np.asarray),
    "div": _elementwise(np.divide),
    "erf_inv": _elementwise(erfinv),
    "max": _elementwise(np.maximum),
    "mul": _elementwise(np.multiply),
    "or": _elementwise(np.bitwise_or),
    "random_bits": _random_bits,
    "random_fold_in": _fold_in,
    "reduce_sum": lambda operation, x: np.sum(x, operation.params["axes"]),
    "reshape": lambda operation, x: np.reshape(x, operation.params["new_sizes"]),
    "shift_right_logical": _elementwise(np.right_shift),
    "sqrt": _elementwise(np.sqrt),
    "sub": _elementwise(np.subtract),
}


def threefry(key: np.ndarray, high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 in 20 rounds (Salmon et al., 2011): pseudorandom words of a key and of counters.

    Args:
      key: uint32 (2,).
      high, low: uint32 of one shape, the words of the counters.

    Returns:
      Two arrays of words like these.
    """
    first, second = (np.asarray(word, np.uint32) for word in key)
    words = first, second, first ^ second ^ PARITY
    with np.errstate(over="ignore"):  # Sums are modulo 2^32.
        x, y = high + words[0], low + words[1]
        for group in range(5):
            for rotation in ROTATIONS[group % 2]:
                x += y
                y = y << rotation | y >> (32 - rotation)
                y ^= x
            x += words[(group + 1) % 3]
            y += words[(group + 2) % 3] + np.uint32(group + 1)
    return x, y
