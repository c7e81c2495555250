"""Every way of lowering a convolution against a plain loop over taps in NumPy, and exactness as equality."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.exact import Whole
from qsdt_jax.layers import lowering
from qsdt_jax.layers.lowering import ConvGeometry, gpu, xla
from tests.platforms import lowered_for

# (images, height, width, inputs, outputs, kernel size, geometry); odd and non-square sizes, unused last rows.
CASES = {
    "pointwise": (2, 5, 7, 4, 6, 1, ConvGeometry()),
    "pointwise stride 2": (2, 5, 8, 4, 6, 1, ConvGeometry(2)),
    "pointwise padded": (2, 5, 7, 4, 6, 1, ConvGeometry(1, 1)),
    "depthwise 7x7": (2, 9, 11, 5, 5, 7, ConvGeometry(1, 3, 5)),
    "depthwise 3x3 unpadded": (2, 9, 6, 5, 5, 3, ConvGeometry(1, 0, 5)),
    "depthwise 3x3 stride 2": (2, 10, 7, 5, 5, 3, ConvGeometry(2, 1, 5)),
    "depthwise 3x3 stride 3": (1, 10, 9, 5, 5, 3, ConvGeometry(3, 0, 5)),
    "depthwise 1x1": (2, 4, 5, 3, 3, 1, ConvGeometry(1, 0, 3)),
    "depthwise of several blocks": (1, 37, 67, 2, 2, 3, ConvGeometry(1, 1, 2)),
    "depthwise beyond shifted sums": (1, 12, 12, 2, 2, 11, ConvGeometry(1, 5, 2)),
    "depthwise padded past its kernel": (1, 6, 5, 3, 3, 3, ConvGeometry(1, 4, 3)),
    "3x3 widening": (2, 9, 7, 5, 8, 3, ConvGeometry(1, 1)),
    "3x3 narrowing": (2, 9, 7, 8, 5, 3, ConvGeometry(1, 1)),
    "3x3 unpadded": (2, 9, 7, 8, 5, 3, ConvGeometry()),
    "3x3 stride 2, odd": (2, 9, 7, 8, 5, 3, ConvGeometry(2, 1)),
    "3x3 stride 2, even": (2, 10, 8, 5, 8, 3, ConvGeometry(2, 1)),
    "3x3 padded past its kernel": (1, 6, 5, 6, 4, 3, ConvGeometry(1, 4)),
    "3x3 of several blocks": (1, 45, 71, 5, 6, 3, ConvGeometry(1, 1)),
    "3x3 narrowing, several blocks": (2, 45, 71, 6, 5, 3, ConvGeometry(1, 1)),
    "stem 7x7 on RGB": (2, 20, 14, 3, 4, 7, ConvGeometry(2, 3)),
    "stem of several blocks": (1, 90, 131, 3, 4, 7, ConvGeometry(2, 3)),
    "one channel": (2, 6, 7, 1, 1, 3, ConvGeometry(1, 1)),
    "groups": (2, 9, 8, 4, 8, 3, ConvGeometry(2, 1, 2)),
    "channel multiplier": (2, 9, 8, 4, 8, 3, ConvGeometry(1, 1, 4)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def taps_of(x: np.ndarray, kernel: np.ndarray, geometry: ConvGeometry):
    """(i, j, what tap (i, j) sees of padded x) with the rows and columns that it is multiplied with."""
    p, s = geometry.padding, geometry.stride
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    height = (padded.shape[1] - kernel.shape[0]) // s + 1
    width = (padded.shape[2] - kernel.shape[1]) // s + 1
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            yield i, j, padded[:, i : i + height * s : s, j : j + width * s : s][:, :height, :width]


def reference(x: np.ndarray, kernel: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    groups = geometry.groups
    grouped = kernel.reshape(*kernel.shape[:3], groups, -1)
    terms = [
        np.einsum("nhwgi,igo->nhwgo", seen.reshape(*seen.shape[:3], groups, -1), grouped[i, j])
        for i, j, seen in taps_of(x, kernel, geometry)
    ]
    y = np.sum(terms, axis=0)
    return y.reshape(*y.shape[:3], -1)


def reference_gradients(x: np.ndarray, kernel: np.ndarray, dy: np.ndarray, geometry: ConvGeometry):
    """Gradients of sum(dy * reference) by linearity: tap by tap, scattered back to where it looked."""
    groups, p, s = geometry.groups, geometry.padding, geometry.stride
    grouped = kernel.reshape(*kernel.shape[:3], groups, -1)
    dy = dy.reshape(*dy.shape[:3], groups, -1)
    padded = np.zeros((x.shape[0], x.shape[1] + 2 * p, x.shape[2] + 2 * p, x.shape[3]))
    grad_kernel = np.zeros_like(grouped)
    for i, j, seen in taps_of(x, kernel, geometry):
        seen = seen.reshape(*seen.shape[:3], groups, -1)
        grad_kernel[i, j] = np.einsum("nhwgi,nhwgo->igo", seen, dy)
        grad_seen = np.einsum("nhwgo,igo->nhwgi", dy, grouped[i, j])
        height, width = seen.shape[1:3]
        rows, columns = slice(i, i + (height - 1) * s + 1, s), slice(j, j + (width - 1) * s + 1, s)
        padded[:, rows, columns] += grad_seen.reshape(*seen.shape[:3], -1)
    grad_x = padded[:, p : p + x.shape[1], p : p + x.shape[2]]
    return grad_x, grad_kernel.reshape(kernel.shape)


def operands(case, seed: int = 0):
    n, height, width, inputs, outputs, size, geometry = case
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, height, width, inputs))
    kernel = rng.standard_normal((size, size, inputs // geometry.groups, outputs))
    return x, kernel, geometry


@cases
def test_matches_the_sum_over_taps_in_float64(case):
    x, kernel, geometry = operands(case)
    with jax.enable_x64(True):
        y = lowering.convolve(x, kernel, geometry, jnp.float64)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        grad_x = lowering.input_gradient(dy, kernel, x.shape, geometry, jnp.float64)
        grad_kernel = lowering.weight_gradient(x, dy, kernel.shape, geometry, jnp.float64)
    expected_x, expected_kernel = reference_gradients(x, kernel, dy, geometry)
    assert y.dtype == grad_x.dtype == grad_kernel.dtype == jnp.float64
    np.testing.assert_allclose(y, reference(x, kernel, geometry), rtol=0, atol=1e-11)
    np.testing.assert_allclose(grad_x, expected_x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(grad_kernel, expected_kernel, rtol=0, atol=1e-11)


@pytest.mark.slow
@cases
def test_the_accelerators_way_agrees_too(case):
    """The branch that CPUs never take: the explicit gradients of one XLA convolution."""
    x, kernel, geometry = operands(case)
    with jax.enable_x64(True):
        y = xla.convolve(x, kernel, geometry, jnp.float64)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        grad_x = xla.input_gradient(dy, kernel, x.shape, geometry, jnp.float64)
        grad_kernel = xla.weight_gradient(x, dy, kernel.shape, geometry, jnp.float64)
    expected_x, expected_kernel = reference_gradients(x, kernel, dy, geometry)
    np.testing.assert_allclose(y, reference(x, kernel, geometry), rtol=0, atol=1e-11)
    np.testing.assert_allclose(grad_x, expected_x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(grad_kernel, expected_kernel, rtol=0, atol=1e-11)


@pytest.mark.slow
@cases
def test_the_gpus_way_agrees_too(case):
    """On a CPU: the strategies are the GPU's, the instructions are not."""
    x, kernel, geometry = operands(case)
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        y = gpu.convolve(x, kernel, geometry, jnp.float64, None)
        dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape))
        grad_x = gpu.input_gradient(dy, kernel, x.shape, geometry, jnp.float64)
        grad_kernel = gpu.weight_gradient(x, dy, kernel.shape, geometry, jnp.float64)
    x, kernel, dy = map(np.asarray, (x, kernel, dy))
    expected_x, expected_kernel = reference_gradients(x, kernel, dy, geometry)
    np.testing.assert_allclose(y, reference(x, kernel, geometry), rtol=0, atol=1e-11)
    np.testing.assert_allclose(grad_x, expected_x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(grad_kernel, expected_kernel, rtol=0, atol=1e-11)


@pytest.mark.slow
@cases
@pytest.mark.parametrize("largest", [4, 127, 2048], ids=["D = 4", "D = 127", "digits"])
def test_whole_numbers_in_the_gpus_way(case, largest):
    """Int8 x int8 -> float32, which the CPU's XLA takes as well; 2048 goes as two bytes, or as float16."""
    *shape, geometry = case
    n, height, width, inputs, outputs, size = shape
    rng = np.random.default_rng(6)
    x = rng.integers(-largest, largest + 1, (n, height, width, inputs))
    kernel = rng.integers(-128, 128, (size, size, inputs // geometry.groups, outputs))
    expected = reference(x, kernel, geometry)
    assert np.abs(expected).max() < 2**24
    whole = Whole(left=largest, right=128)
    for dtype in (jnp.float32, jnp.int32):
        y = gpu.convolve_whole(jnp.float32(x), jnp.float32(kernel), geometry, dtype, whole)
        assert y.dtype == dtype and np.array_equal(y, expected)


# (height, inputs, outputs, kernel size, geometry): each strategy that spikes meet in a network.
PRODUCTS = {
    "pointwise": (6, 40, 24, 1, ConvGeometry()),
    "3x3": (7, 24, 16, 3, ConvGeometry(1, 1)),
    "3x3 stride 2": (9, 16, 24, 3, ConvGeometry(2, 1)),
    "depthwise": (9, 24, 24, 7, ConvGeometry(1, 3, 24)),
    "few channels": (12, 3, 8, 7, ConvGeometry(2, 3)),
}
products = pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.keys())
narrow = pytest.mark.parametrize(
    "operand", [jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn, jnp.int8], ids=lambda d: d.__name__
)


def spikes_and_weights(product, images: int = 5):
    size, inputs, outputs, kernel_size, geometry = product
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 5, (images, size, size + 1, inputs))
    kernel = rng.integers(-8, 8, (kernel_size, kernel_size, inputs // geometry.groups, outputs))
    return counts, kernel, geometry


def multiply(counts, kernel, geometry, operand):
    x, kernel = jnp.asarray(counts).astype(operand), jnp.asarray(kernel).astype(operand)
    return np.asarray(lowering.convolve(x, kernel, geometry, jnp.float32, Whole(left=4, right=8)))


@products
@narrow
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_integer_products_are_equal_in_every_operand_type(product, operand, platform):
    counts, kernel, geometry = spikes_and_weights(product)
    product = functools.partial(
        lowering.convolve, geometry=geometry, dtype=jnp.float32, whole=Whole(left=4, right=8)
    )
    y = lowered_for(platform, product)(
        jnp.asarray(counts).astype(operand), jnp.asarray(kernel).astype(operand)
    )
    assert y.dtype == np.float32
    assert np.array_equal(y, reference(counts, kernel, geometry))


@products
@narrow
def test_integer_products_do_not_depend_on_the_batch(product, operand):
    counts, kernel, geometry = spikes_and_weights(product)
    together = multiply(counts, kernel, geometry, operand)
    alone = [multiply(counts[i : i + 1], kernel, geometry, operand) for i in range(len(counts))]
    assert np.array_equal(together, np.concatenate(alone))


@products
@narrow
def test_integer_products_do_not_depend_on_the_order_of_summation(product, operand):
    counts, kernel, geometry = spikes_and_weights(product)
    if geometry.groups > 1:
        pytest.skip("a depthwise product has one input channel")
    order = np.random.default_rng(3).permutation(counts.shape[-1])
    straight = multiply(counts, kernel, geometry, operand)
    shuffled = multiply(counts[..., order], kernel[:, :, order], geometry, operand)
    assert np.array_equal(straight, shuffled)


@narrow
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_largest_sum_is_exact(operand, kernel_size):
    """Fan-in 4608, every count D = 4, every weight -8, and one input one spike short of it."""
    inputs = 4608 // kernel_size**2
    counts = np.full((1, 3, 3, inputs), 4)
    counts[0, 1, 1, 0] = 3
    kernel = np.full((kernel_size, kernel_size, inputs, 2), -8)
    y = multiply(counts, kernel, ConvGeometry(1, kernel_size // 2), operand)
    assert y[0, 1, 1, 0] == -8 * (4 * 4608 - 1)
    assert np.array_equal(y, reference(counts, kernel, ConvGeometry(1, kernel_size // 2)))


def test_int8_reaches_beyond_float32():
    """127 * 127 * 4608 > 2^24 and odd: int32 accumulation, seen before the result becomes float32."""
    x = jnp.full((1, 1, 1, 4608), 127, jnp.int8)
    kernel = jnp.full((1, 1, 4608, 1), 127, jnp.int8)
    y = lowering.convolve(x, kernel, ConvGeometry(), jnp.int32)
    assert int(y[0, 0, 0, 0]) == 127 * 127 * 4608


@pytest.mark.parametrize("operand", [jnp.bfloat16, jnp.float8_e4m3fn], ids=lambda d: d.__name__)
@products
def test_gradients_of_narrow_operands_are_summed_in_float32(product, operand):
    """With whole dy, the gradients are sums of integers too: equality again."""
    counts, kernel, geometry = spikes_and_weights(product)
    shape = reference(counts[:1, ...], kernel, geometry).shape[1:]
    dy = np.random.default_rng(4).integers(-8, 9, (len(counts), *shape))
    grad_x = lowering.input_gradient(
        jnp.asarray(dy).astype(operand),
        jnp.asarray(kernel).astype(operand),
        counts.shape,
        geometry,
        jnp.float32,
    )
    grad_kernel = lowering.weight_gradient(
        jnp.asarray(counts).astype(operand),
        jnp.asarray(dy).astype(operand),
        kernel.shape,
        geometry,
        jnp.float32,
    )
    expected_x, expected_kernel = reference_gradients(counts, kernel, dy, geometry)
    assert np.array_equal(grad_x, expected_x)
    assert np.array_equal(grad_kernel, expected_kernel)


everywhere = pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])


@everywhere
@pytest.mark.parametrize("terms", [2047, 2048, 2049, 4000])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_sums_of_counts_are_exact_at_and_beyond_what_float32_holds(platform, terms, kernel_size):
    """D = 64 times 8-bit weights: 2048 terms reach 2^24. Above they are whole numbers, rounded once."""
    whole, inputs = Whole(left=64, right=128), terms // kernel_size**2
    reachable = whole.sum_of(kernel_size**2 * inputs)
    rng = np.random.default_rng(7)
    shape = (1, kernel_size, kernel_size, inputs)
    counts = np.concatenate([np.full(shape, 64), rng.integers(63, 65, (3, *shape[1:]))])
    kernel = np.full((kernel_size, kernel_size, inputs, 2), -128)
    kernel[..., 1] = rng.integers(-128, -126, kernel.shape[:3])
    expected = reference(counts, kernel, ConvGeometry())
    assert np.abs(expected).max() == reachable
    product = functools.partial(lowering.convolve, geometry=ConvGeometry(), dtype=jnp.float32, whole=whole)
    y = lowered_for(platform, product)(jnp.float32(counts), jnp.float32(kernel))
    assert y.dtype == jnp.float32 and np.array_equal(y, expected.astype(np.float32))


@everywhere
@pytest.mark.parametrize("size", [1, 3])
def test_counts_beyond_a_byte_are_exact(platform, size):
    """D = 300 goes as two bytes where it goes as bytes; sums of either byte pass 2^24 here."""
    rng = np.random.default_rng(8)
    counts = rng.integers(250, 301, (2, size, size, 9000 // size**2))
    kernel = rng.integers(100, 128, (size, size, 9000 // size**2, 3))
    counts[1] = 300 - counts[1] % 2  # Two times 128 and 44 or 43.
    expected = reference(counts, kernel, ConvGeometry())
    assert expected.min() > 2**24 and np.any(expected % 2)
    product = functools.partial(
        lowering.convolve, geometry=ConvGeometry(), dtype=jnp.float32, whole=Whole(left=300, right=128)
    )
    y = lowered_for(platform, product)(jnp.float32(counts), jnp.float32(kernel))
    assert np.array_equal(y, expected.astype(np.float32))
