"""What XLA's GPU compiler makes of the layers, on a machine without a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.exact import Whole
from qsdt_jax.inspect.gpu_compiler import compiler_is_installed, devices_of
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.kernels import kernels_of
from qsdt_jax.inspect.products import CONVOLUTION
from qsdt_jax.inspect.targets import H100
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.product import scaled_convolution
from qsdt_jax.layers.transformer_block import TransformerBlock

needs_compiler = pytest.mark.skipif(
    not compiler_is_installed(),
    reason="XLA's compiler for GPUs is not installed: pip install '.[gpu-compile]'",
)
pytestmark = needs_compiler


def compiled(function, *arguments) -> str:
    mesh = jax.sharding.Mesh(np.array(devices_of(H100, 1)), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tuple(arguments)
    )
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def convolutions(program: str) -> list[tuple[str, str, str]]:
    """Types of operands and result of all convolutions, in their order."""
    products = [product for kernel in kernels_of(read_program(program)) for product in kernel.products]
    return [(p.left, p.right, p.result) for p in products if p.operation == CONVOLUTION]


def gradients_of(shape, kernel, geometry, dtype=jnp.bfloat16):
    def run(x, w, scale):
        product = lambda *a: scaled_convolution(*a, geometry, dtype, dtype, Whole(left=4, right=8))  # noqa: E731
        y, vjp = jax.vjp(product, x, w, scale)
        return y, vjp(y)

    return run, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, kernel, kernel[-1:]))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_dense_convolution_and_its_gradients(stride):
    program = compiled(*gradients_of((8, 28, 28, 64), (3, 3, 64, 96), ConvGeometry(stride, 1)))
    assert sorted(convolutions(program)) == [("bf16", "bf16", "bf16")] * 2 + [("s8", "s8", "f32")]


def test_of_a_depthwise_convolution_only_the_weight_gradient_is_one():
    program = compiled(*gradients_of((8, 28, 28, 64), (7, 7, 1, 64), ConvGeometry(1, 3, 64)))
    assert convolutions(program) == [("bf16", "bf16", "bf16")]


@pytest.mark.slow
def test_a_transformer_block_compiles_and_convolves_in_bfloat16_only():
    """At the width and batch at which attention in front of a product did not compile."""
    block = TransformerBlock(Numerics(dtype=jnp.bfloat16), 8, 4, "spiking", 0.25, "bn", 1e-6, 0.0)
    x = jax.ShapeDtypeStruct((64, 14, 14, 256), jnp.float32)
    variables = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), x)

    def loss(params, statistics, x):
        variables = {"params": params, "batch_stats": statistics}
        y, _ = block.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y**2)

    program = compiled(jax.grad(loss, (0, 2)), variables["params"], variables["batch_stats"], x)
    assert set(convolutions(program)) == {("bf16", "bf16", "bf16")}
    assert convolutions(compiled(lambda v, x: block.apply(v, x, train=False), variables, x)) == []
