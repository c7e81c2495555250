"""What accelerators are told to do, read from programs lowered for them: operand types, sums, precision."""

import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from qsdt_jax.core.exact import Whole
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers import lowering
from qsdt_jax.layers.attention import spike_attention
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.product import exact_convolution, scaled_convolution
from tests.deploy.nets import tiny_net

PRODUCT = re.compile(
    r"stablehlo\.(convolution|dot_general)\b(.*?): \(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
)
accelerators = pytest.mark.parametrize("platform", ["cuda", "tpu"])
# (x, kernel, geometry)
SHAPES = {
    "1x1": ((2, 6, 6, 16), (1, 1, 16, 8), ConvGeometry()),
    "3x3": ((2, 6, 6, 16), (3, 3, 16, 8), ConvGeometry(1, 1)),
    "depthwise": ((2, 9, 9, 8), (7, 7, 1, 8), ConvGeometry(1, 3, 8)),
    "stem": ((2, 16, 16, 3), (7, 7, 3, 8), ConvGeometry(2, 3)),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
narrow = pytest.mark.parametrize(
    "operand", [jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn, jnp.int8], ids=lambda d: d.__name__
)


def lowered(function, *arguments, platform: str) -> str:
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def products_of(program: str) -> Iterator[tuple[str, tuple[str, str, str], bool]]:
    """Kind, types of operands and result, and whether all precision is asked for, of each product."""
    found = 0
    for kind, attributes, *tensors in PRODUCT.findall(program):
        found += 1
        left, right, result = (tensor.rpartition("x")[2] for tensor in tensors)
        yield kind, (left, right, result), attributes.count("HIGHEST") == 2
    assert found == program.count("stablehlo.convolution") + program.count("stablehlo.dot_general")


def abstract(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def arguments(shape):
    x, kernel, geometry = shape
    return (abstract(*x), abstract(*kernel), abstract(kernel[-1])), geometry


def forward(shape, operand, whole, platform):
    args, geometry = arguments(shape)
    f = functools.partial(scaled_convolution, geometry=geometry, operand_dtype=operand)
    f = functools.partial(f, gradient_dtype=jnp.bfloat16, whole=whole)
    return list(products_of(lowered(lambda *a: f(*a), *args, platform=platform)))


def gradients(shape, dtype, whole, platform):
    args, geometry = arguments(shape)

    def backward(x, w, scale):
        f = lambda *a: scaled_convolution(*a, geometry, dtype, dtype, whole)  # noqa: E731
        y, vjp = jax.vjp(f, x, w, scale)
        return vjp(y)

    both = list(products_of(lowered(backward, *args, platform=platform)))
    return both[len(forward(shape, dtype, whole, platform)) :]


@accelerators
@shapes
@narrow
def test_spike_products_are_summed_in_float32_or_int32(shape, operand, platform):
    """Whatever the operand type; bfloat16 would lose counts above 256, float8 above 16."""
    for _, (*_, result), _ in forward(shape, operand, Whole(left=4, right=8), platform):
        assert result in ("f32", "i32")


@shapes
@narrow
def test_gpus_multiply_spikes_in_one_byte(shape, operand):
    """As int8 in convolutions, as bfloat16 in matrix products, never as float8; depthwise in neither."""
    kinds = {"1x1": [("dot_general", ("bf16", "bf16", "f32"), False)], "depthwise": []}
    dense = [("convolution", ("i8", "i8", "f32"), False)]
    name = next(name for name, other in SHAPES.items() if other is shape)
    assert forward(shape, operand, Whole(left=4, right=8), "cuda") == kinds.get(name, dense)


@shapes
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__)
def test_gradients_are_written_in_the_type_of_their_operands(shape, dtype):
    """By a GPU, but for those of 1x1 weights, which are small; the sums are float32 inside."""
    name = "bf16" if dtype == jnp.bfloat16 else "f32"
    for kind, types, _ in gradients(shape, dtype, Whole(left=4, right=8), "tpu"):
        assert kind == "convolution" and types == (name, name, "f32")
    *of_x, of_w = gradients(shape, dtype, Whole(left=4, right=8), "cuda")
    assert all(types == (name, name, name) for _, types, _ in of_x)
    kind, types, _ = of_w
    assert types == (name, name, name if kind == "convolution" else "f32")


@accelerators
def test_digits_are_multiplied_in_full(platform):
    """They have 12 bits. A TPU rounds operands to 8 unless told; a GPU gets them in two bytes, or float16."""
    (x, kernel, _), geometry = arguments(SHAPES["1x1"])
    plain = lambda x, w: exact_convolution(x, w, geometry, 4, portable=True)  # noqa: E731
    pointwise = lowered(plain, x, kernel, platform="cuda")
    assert list(products_of(pointwise)) == [("dot_general", ("f16", "f16", "f32"), False)]
    (x, kernel, _), geometry = arguments(SHAPES["3x3"])
    program = lowered(lambda x, w: exact_convolution(x, w, geometry, 4), x, kernel, platform=platform)
    # One function, called for each of two digits.
    found = list(products_of(program))
    if platform == "tpu":
        assert found == [("convolution", ("f32", "f32", "f32"), True)]
    else:
        assert found == [("convolution", ("i8", "i8", "f32"), False)] * 2


@pytest.mark.parametrize(("levels", "full"), [(4, False), (256, False), (257, True), (2048, True)])
def test_counts_beyond_bfloat16_are_multiplied_in_full(levels, full):
    [(_, types, highest)] = forward(SHAPES["1x1"], jnp.float32, Whole(left=levels, right=8), "tpu")
    assert types == ("f32", "f32", "f32") and highest == full


@accelerators
def test_attention_rounds_no_operand(platform):
    """k^T v has 12 bits at 196 tokens. Float32 in full, or bfloat16 whose values are pieces of it."""
    counts = abstract(2, 196, 16)

    def attend(q, k, v):
        spikes = (Spikes(counts=x, step=0.25, levels=4) for x in (q, k, v))
        return spike_attention(*spikes, 2, 0.25)

    found = list(products_of(lowered(attend, counts, counts, counts, platform=platform)))
    expected = ("bf16", "bf16", "f32", False) if platform == "cuda" else ("f32", "f32", "f32", True)
    assert [(*types, highest) for _, types, highest in found] == [expected] * 2

    def backward(q, k, v):
        y, vjp = jax.vjp(attend, q, k, v)
        return vjp(y)

    found = list(products_of(lowered(backward, counts, counts, counts, platform=platform)))[2:]
    assert [(*types, highest) for _, types, highest in found] == [("f32", "f32", "f32", True)] * len(found)
    assert len(found) >= 4


def test_integer_attention_sums_in_int32_or_in_pieces():
    counts = abstract(2, 196, 16, dtype=jnp.int8)
    for platform, expected in (("tpu", ["i32", "i32"]), ("cuda", ["f32", "f32"])):
        program = lowered(
            lambda q, k, v: lowering.integer_attention(q, k, v, 2), *[counts] * 3, platform=platform
        )
        assert [types[2] for _, types, _ in products_of(program)] == expected
        assert program.count("xf16>") == 0


def train_gradients(model):
    images = abstract(2, 32, 32, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(params, rest, images):
        y, _ = model.apply({**rest, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.sum(y)

    return jax.grad(loss), variables["params"], variables, images


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"spike_dtype": jnp.float8_e4m3fn}, {"levels": 200}], ids=str)
def test_no_convolution_of_a_bfloat16_network_has_float32_operands(fields):
    """Which would be what XLA makes of bfloat16 operands with a float32 result."""
    model = tiny_net(dtype=jnp.bfloat16, **fields)
    training = lowered(*train_gradients(model), platform="cuda")
    expected = {("bf16", "bf16", "bf16")} | ({("i8", "i8", "f32")} if "levels" in fields else set())
    assert {types for kind, types, _ in products_of(training) if kind == "convolution"} == expected
    variables, images = train_gradients(model)[2:]
    inference = lowered(lambda v, x: model.apply(v, x), variables, images, platform="cuda")
    found = {types for kind, types, _ in products_of(inference) if kind == "convolution"}
    assert found == {("i8", "i8", "f32")}


def test_each_platform_gets_its_own_way_from_any_machine():
    (x, kernel, _), geometry = arguments(SHAPES["depthwise"])
    multiply = lambda x, w: lowering.convolve(x, w, geometry, jnp.float32)  # noqa: E731
    for platform, convolutions in {"cpu": 0, "cuda": 0, "tpu": 1, "rocm": 1}.items():
        assert len(list(products_of(lowered(multiply, x, kernel, platform=platform)))) == convolutions


def test_rocm_multiplies_integers_as_floats():
    x, kernel = (abstract(2, 6, 6, 4, dtype=jnp.int8), abstract(3, 3, 4, 4, dtype=jnp.int8))
    multiply = lambda x, w: lowering.convolve(x, w, ConvGeometry(1, 1), jnp.int32)  # noqa: E731
    [(_, types, _)] = products_of(lowered(multiply, x, kernel, platform="rocm"))
    assert types == ("f32", "f32", "f32")
