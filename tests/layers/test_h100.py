"""What XLA's GPU compiler makes of the layers, on a machine without a GPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from qsdt_jax.core.exact import Whole
from qsdt_jax.core.spikes import counts_of
from qsdt_jax.inspect.gpu_compiler import compiler_is_installed, devices_of
from qsdt_jax.inspect.hlo import bytes_of, read_program
from qsdt_jax.inspect.kernels import NO_KERNELS, kernels_of, total_moved
from qsdt_jax.inspect.products import CONVOLUTION
from qsdt_jax.inspect.targets import H100
from qsdt_jax.layers import lowering
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.product import exact_convolution, scaled_convolution
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.sepconv import ConvBlock
from qsdt_jax.layers.transformer_block import TransformerBlock

needs_compiler = pytest.mark.skipif(
    not compiler_is_installed(),
    reason="XLA's compiler for GPUs is not installed: pip install '.[gpu-compile]'",
)
pytestmark = needs_compiler


def compiled(function, *arguments) -> str:
    return compilation(function, *arguments).as_text() or ""


def compilation(function, *arguments) -> jax.stages.Compiled:
    mesh = jax.sharding.Mesh(np.array(devices_of(H100, 1)), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tuple(arguments)
    )
    return jax.jit(function).lower(*arguments).compile()


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


class Remembering(nn.Module):
    """A block that keeps for its backward pass what `remat` says."""

    remat: Remat
    block: nn.Module

    def __call__(self, x, train: bool):
        return call_block(self.remat, self.block, x, train)


# Of an image: MB of temporaries and MB moved, and kernels. Bounds 3 % above what was measured.
BLOCKS = {
    "conv block at 112x112": (
        ConvBlock,
        (8, 112, 112, 32),
        4 * 32,
        {"none": (17, 131, 97), "spikes": (17, 154, 116)},
    ),
    "transformer block": (
        TransformerBlock,
        (64, 14, 14, 256),
        4 * 256,
        {"none": (3.1, 30.8, 256), "spikes": (2.7, 34.9, 302)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "spikes"])
@pytest.mark.parametrize("case", BLOCKS.values(), ids=BLOCKS.keys())
def test_what_the_training_of_a_block_of_size_s_moves(case, remat):
    """Nothing of the block's width lies in memory as float32: no spikes, no product, no gradient."""
    kind, shape, width, bounds = case
    net = Remembering(remat, kind(Numerics(dtype=jnp.bfloat16)))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), x)

    def step(params, statistics, x, dy):
        forward = lambda p, x: net.apply(  # noqa: E731
            {"params": p, "batch_stats": statistics}, x, True, mutable=["batch_stats"]
        )
        _, vjp, statistics = jax.vjp(forward, params, x, has_aux=True)
        return vjp(dy), statistics

    program = compilation(step, variables["params"], variables["batch_stats"], x, x)
    entry = read_program(program.as_text() or "")
    wide = 4 * width * np.prod(shape[:-1])
    operations = entry.computations[entry.entry].values()
    results = [part for op in operations if op.opcode not in NO_KERNELS for part in op.type.split("f32")[1:]]
    assert max(bytes_of(f"f32{part}") for part in results) < wide

    kernels, memory = kernels_of(entry), program.memory_analysis()
    images = shape[0]
    most_temporaries, most_moved, most_kernels = bounds[remat]
    assert memory is not None and memory.temp_size_in_bytes <= most_temporaries * 1e6 * images
    assert total_moved(kernels) <= most_moved * 1e6 * images
    assert sum(kernel.times for kernel in kernels) <= most_kernels


# Of an image: MB moved in inference, and kernels. Bounds as above.
INFERENCE = {"conv block at 112x112": (45, 23), "transformer block": (10.7, 74)}


@pytest.mark.slow
@pytest.mark.parametrize("name", INFERENCE)
def test_what_the_inference_of_a_block_of_size_s_moves(name):
    """Exact, with float32 between the products of real values, and one kernel for all digits of one."""
    kind, shape, *_ = BLOCKS[name]
    net = kind(Numerics(dtype=jnp.bfloat16))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), x)
    kernels = kernels_of(read_program(compiled(lambda v, x: net.apply(v, x, False), variables, x)))
    most_moved, most_kernels = INFERENCE[name]
    assert total_moved(kernels) <= most_moved * 1e6 * shape[0]
    assert sum(kernel.times for kernel in kernels) <= most_kernels


@pytest.mark.parametrize(("axes", "sizes"), [(("data",), (4,)), (("data", "fsdp"), (2, 2))])
def test_kernels_run_on_each_device_with_its_own_images(axes, sizes):
    mesh = jax.sharding.Mesh(np.array(devices_of(H100, 4)).reshape(sizes), axes)
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axes))
    real = jax.ShapeDtypeStruct((8, 14, 14, 64), jnp.float32, sharding=spread)
    codes = jax.ShapeDtypeStruct((8, 196, 64), jnp.int8, sharding=spread)

    def run(codes, x, dy):
        attend = lambda *qkv: lowering.count_attention(*qkv, 2, 4, jnp.bfloat16, [codes] * 3)  # noqa: E731
        y, vjp = jax.vjp(attend, *[counts_of(codes, jnp.float32)] * 3)
        weights = jnp.ones((1, 1, 64, 32), jnp.float32)
        return y, vjp(dy.reshape(codes.shape)), exact_convolution(x, weights, ConvGeometry(), 4)

    program = jax.jit(run).lower(codes, real, real).compile().as_text() or ""
    kernels = re.findall(r"= (.*) custom-call.*triton", program)
    assert len(kernels) == 3 and all("[2,196," in result for result in kernels)
    assert not re.search("all-(gather|reduce|to-all)|collective-permute", program)
    # Of two images of 196 tokens, 64 channels: each product with 32 x 32 of a head, or 64 x 32.
    once = 2 * 2 * 196 * 64 * 32
    flops = {kernel.kind: kernel.flops for kernel in kernels_of(read_program(program)) if kernel.products}
    assert flops == {
        "attention, by Pallas": 2 * once,
        "attention_gradients, by Pallas": 5 * once,
        "digit_product, by Pallas": 2 * once,
    }
