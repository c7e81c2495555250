"""The integer form as one StableHLO program, which runs wherever JAX does, without this project.

exported = jax.export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))
logits = exported.call(images)    # float32 (B, H, W, C), or (B, T, H, W, C) if T > 1; normalised, any B

Images have no padding.
"""

import jax
import jax.export
import jax.numpy as jnp

from qsdt_jax.deploy.integer import integer_forward
from qsdt_jax.deploy.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(program: Program, image_size: tuple[int, int]) -> bytes:
    """The serialized program for CPU, CUDA and TPU, weights included, for batches of any size.

    Args:
      program: a folded network.
      image_size: (height, width) in pixels, multiples of 16.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    timesteps = program.neuron.timesteps
    frames = (timesteps,) if timesteps > 1 else ()
    images = jax.ShapeDtypeStruct((batch, *frames, *image_size, program.in_channels), jnp.float32)
    forward = jax.jit(lambda images: integer_forward(program, images))
    return bytes(jax.export.export(forward, platforms=PLATFORMS)(images).serialize())
