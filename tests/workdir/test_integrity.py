import json
import zlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qsdt_jax.workdir.integrity import (
    differences,
    fingerprints,
    host_leaves,
    leaves_of,
    nested,
    sealed,
    unsealed,
)

LEAVES = {"a/b": np.arange(3, dtype=np.float32), "a/c": np.array(2, np.int8), "d": np.zeros((2, 0))}


def test_leaves_by_path_and_back():
    tree = {"layer": {"w": jnp.ones(2), "none": None}, "pair": (np.zeros(1), 3)}
    leaves, structure = leaves_of(tree)
    assert sorted(leaves) == ["layer/w", "pair/0", "pair/1"]
    assert jax.tree.structure(tree) == structure
    assert nested(leaves) == {"layer": {"w": leaves["layer/w"]}, "pair": {"0": leaves["pair/0"], "1": 3}}
    assert all(isinstance(leaf, np.ndarray) for leaf in host_leaves(tree).values())


def test_equal_paths_are_refused():
    with pytest.raises(ValueError, match="same path"):
        leaves_of({"a": {"b": 1}, "a/b": 2})


def test_fingerprints_are_json_and_see_every_bit():
    found = fingerprints(LEAVES)
    assert json.loads(json.dumps(found)) == found
    assert found["a/b"] == [zlib.crc32(np.arange(3, dtype=np.float32).tobytes()), "float32", [3]]
    assert found["d"] == [0, "float64", [2, 0]]
    for bit in range(16):
        leaf = np.array([1.5], ml_dtypes.bfloat16)
        flipped = (leaf.view(np.uint16) ^ np.uint16(1 << bit)).view(ml_dtypes.bfloat16)
        assert fingerprints({"x": leaf})["x"][0] != fingerprints({"x": flipped})["x"][0]


def test_fingerprint_is_of_the_values_not_of_their_layout():
    matrix = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert fingerprints({"x": matrix}) == fingerprints({"x": np.asfortranarray(matrix)})
    assert fingerprints({"x": matrix}) != fingerprints({"x": matrix.T})


def test_seal():
    record = {"leaves": fingerprints(LEAVES), "metrics": {"top1": 1 / 3}}
    seal = json.loads(json.dumps(sealed(record)))
    assert unsealed(seal) == record
    seal["record"] = seal["record"].replace("float32", "float16")
    with pytest.raises(ValueError, match="checksum"):
        unsealed(seal)


def test_differences():
    stored = fingerprints(LEAVES)
    assert differences(LEAVES, stored) == []
    wanted = {"a/b": jax.ShapeDtypeStruct((4,), jnp.float32), "a/c": LEAVES["a/c"], "new": np.zeros(1, bool)}
    assert differences(wanted, stored) == [
        "a/b: expected float32[4], found float32[3]",
        "d: expected nothing, found float64[2,0]",
        "new: expected bool[1], found nothing",
    ]
