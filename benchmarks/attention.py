"""What one attention layer takes by the number of tokens: memory, bytes moved, time.

    python -m benchmarks.attention [spiking|softmax]

Of stage 3 of size S (256 channels, 8 heads, stride 16), 2 images of each size, bfloat16: compiled for an H100
(needs `pip install '.[gpu-compile]'`), and in float32 run on this machine's CPU.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.cuda_plugin import allow_without_driver
from qsdt_jax.inspect.gpu_compiler import compiled_for, devices_of
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.kernels import kernels_of, total_moved
from qsdt_jax.inspect.targets import H100
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.numerics import Numerics

SIZES = (224, 224), (512, 512), (800, 1344)
IMAGES, CHANNELS, STRIDE, REPEATS = 2, 256, 16, 5


def programs(layer: QSDSA):
    """By name, the forward and forward with backward pass of a training: functions of variables and input."""

    def forward(variables, x):
        y, statistics = layer.apply(variables, x, True, mutable=["batch_stats"])
        return y.real, statistics

    def backward(variables, x):
        rest = {name: value for name, value in variables.items() if name != "params"}

        def loss(params, x):
            y, statistics = forward({**rest, "params": params}, x)
            return jnp.sum(y**2), statistics

        return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    return {"forward": forward, "forward and backward": backward}


def plan(layer: QSDSA, x: jax.ShapeDtypeStruct) -> dict[str, tuple[float, float]]:
    """Of each program compiled for an H100, MB of temporaries and MB moved, of an image."""
    mesh = jax.sharding.Mesh(np.array(devices_of(H100, 1)), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shapes = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, True), x), x
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=everywhere), shapes)
    found = {}
    for name, function in programs(layer).items():
        compiled = compiled_for(H100, f"{name}, {x.shape}", jax.jit(function).lower(*shapes))
        memory, kernels = compiled.memory_analysis(), kernels_of(read_program(compiled.as_text() or ""))
        temporaries = 0 if memory is None else memory.temp_size_in_bytes
        found[name] = temporaries / 1e6 / IMAGES, total_moved(kernels) / 1e6 / IMAGES
    return found


def seconds(layer: QSDSA, x: np.ndarray) -> dict[str, float]:
    """Of each program, median seconds of an image on the CPU."""
    variables = layer.init(jax.random.key(0), x, True)
    found = {}
    for name, function in programs(layer).items():
        compiled = jax.jit(function).lower(variables, x).compile()
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            jax.block_until_ready(compiled(variables, x))
            times.append(time.perf_counter() - start)
        found[name] = statistics.median(times[1:]) / IMAGES
    return found


def main() -> None:
    """Prints a row for each size and program."""
    allow_without_driver()
    attention = sys.argv[1] if len(sys.argv) > 1 else "spiking"
    for height, width in SIZES:
        shape = (IMAGES, height // STRIDE, width // STRIDE, CHANNELS)
        tokens = shape[1] * shape[2]
        numerics = Numerics(dtype=jnp.bfloat16), Numerics(dtype=jnp.float32)
        half, single = (QSDSA(each, attention=attention) for each in numerics)  # pyright: ignore[reportArgumentType]
        planned = plan(half, jax.ShapeDtypeStruct(shape, jnp.float32))
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        timed = seconds(single, x)
        for name, (temporaries, moved) in planned.items():
            values = (
                f"{temporaries:.1f} MB of temporaries, {moved:.1f} MB moved, {timed[name]:.3f} s an image"
            )
            each = [1e3 * temporaries / tokens, 1e3 * moved / tokens, 1e6 * timed[name] / tokens]
            each_told = "{:.1f} kB, {:.1f} kB, {:.0f} us a token".format(*each)
            print(f"{height}x{width}, {tokens} tokens, {name}: {values}; {each_told}", flush=True)


if __name__ == "__main__":
    main()
