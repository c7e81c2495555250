"""What XLA's GPU compiler makes of the layers, on a machine without a GPU.

Needs the compiler beside jax: `pip install --no-deps jax-cuda13-plugin==V jax-cuda13-pjrt==V nvidia-cuda-nvcc
nvidia-nvvm nvidia-nvjitlink`, V the version of jax; 1 GB, so an environment of its own. There it runs with
`JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python -m pytest -o addopts= tests/layers/test_h100.py`.
"""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from qsdt_jax.core.exact import Whole
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.product import scaled_convolution
from qsdt_jax.layers.transformer_block import TransformerBlock

pytest.importorskip("jax_cuda13_plugin", reason="XLA's compiler for GPUs is not installed (see this file)")
if os.environ.get("JAX_SKIP_CUDA_CONSTRAINTS_CHECK") != "1":
    pytest.skip("JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 is not set (see this file)", allow_module_level=True)

H100 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 minor: 0 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
CALL = re.compile(r"= \(?(\w+)\[.*custom-call\(%([\w.-]+), %([\w.-]+).*cudnn\$conv")
MADE = re.compile(r"%([\w.-]+) = \(?(\w+)\[")


def compiled(function, *arguments) -> str:
    devices = topologies.get_topology_desc("H100", "cuda", target_config=H100, topology="1x1x1").devices
    mesh = jax.sharding.Mesh(np.array(devices).reshape(1), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tuple(arguments)
    )
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def convolutions(program: str) -> list[tuple[str, str, str]]:
    """Types of operands and result of cuDNN's convolutions."""
    types = dict(MADE.findall(program))
    return [(types[left], types[right], result) for result, left, right in CALL.findall(program)]


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
