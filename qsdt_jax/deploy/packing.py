"""Small integers without gaps: 4-bit weights two to a byte, 3-bit weights eight to three bytes."""

import numpy as np

from qsdt_jax.deploy.program import Linear


def pack(integers: np.ndarray, bits: int) -> bytes:
    """Two's complement of `bits` bits, lowest bit first, without gaps; one bit stands for -1 (0) and +1 (1).

    `deploy.reference.unpack` is the inverse.

    Args:
      integers: whole numbers that the bits hold, of any shape.
      bits: 1 to 8.
    """
    flat = np.asarray(integers, np.int8).reshape(-1)
    if bits == 1:
        flat = (flat > 0).astype(np.int8)
    digits = np.unpackbits(flat.view(np.uint8)[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(digits, bitorder="little").tobytes()


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that so many integers take."""
    return -(-count * bits // 8)


def layer_bytes(layer: Linear) -> tuple[int, int]:
    """Bytes of a layer's weights, packed or as float32 (32 bits), and of its scale and shift."""
    return packed_bytes(layer.weights.size, layer.bits), layer.scale.nbytes + layer.shift.nbytes
