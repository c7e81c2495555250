"""Packed integers, bit by bit."""

import numpy as np
import pytest

from qsdt_jax.core.lsq import weight_range
from qsdt_jax.deploy.packing import pack, packed_bytes
from qsdt_jax.deploy.reference import unpack


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_every_integer_comes_back_and_none_takes_more_than_its_bits(bits, count):
    smallest, largest = weight_range(bits)
    values = np.random.default_rng(0).integers(smallest, largest + 1, count).astype(np.int8)
    if bits == 1:
        values = np.where(values > 0, 1, -1).astype(np.int8)
    values[0], values[-1] = smallest, largest
    packed = pack(values, bits)
    assert len(packed) == packed_bytes(count, bits) == -(-count * bits // 8)
    unpacked = unpack(np.frombuffer(packed, np.uint8), count, bits)
    assert unpacked.dtype == np.int8 and np.array_equal(unpacked, values)


def test_layout():
    """Lowest bits first: the first of two 4-bit weights is the low half of its byte."""
    assert pack(np.array([1, -8, -1, 7, 2]), 4) == bytes([0x81, 0x7F, 0x02])
    assert pack(np.array([3, -4, 1]), 3) == bytes([0b01100011, 0b0])  # 011, 100 and 001 from the right.
    assert pack(np.array([1, -1, -1, 1]), 1) == bytes([0b1001])
    assert pack(np.array([-128, 127]), 8) == bytes([0x80, 0x7F])


def test_shape_does_not_matter():
    values = np.arange(-8, 8).reshape(2, 2, 4)
    assert pack(values, 4) == pack(values.reshape(-1), 4)
