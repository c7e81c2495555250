"""Checksums of a tree: what a state looks like on paper, and what makes damage visible.

A tree is handled as its leaves by path. Their fingerprints, [crc32, dtype, shape] each, go into a record that
is sealed with a checksum of its own.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

PyTree = Any
Leaves = dict[str, Any]  # By path in the tree, e.g. "variables/params/head/kernel".


def leaves_of(tree: PyTree) -> tuple[Leaves, Any]:
    """The leaves by path, and the structure of the tree.

    Raises:
      ValueError: two leaves have the same path.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError("two leaves of the state have the same path")
    return leaves, structure


def nested(leaves: Leaves) -> dict[str, Any]:
    """Leaves by path as nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def host_leaves(tree: PyTree) -> Leaves:
    """The leaves by path as NumPy arrays; where pieces lie in several processes, all of them take part."""
    leaves, _ = leaves_of(tree)
    # Only these: gathering takes a program for each shape, which would hold up a run that has to stop.
    in_pieces = {
        name: leaf
        for name, leaf in leaves.items()
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
    }
    leaves |= multihost_utils.process_allgather(in_pieces, tiled=True)
    return {name: np.asarray(leaf) for name, leaf in jax.device_get(leaves).items()}


def fingerprints(leaves: Leaves) -> dict[str, list]:
    """[crc32 of the bytes, dtype, shape] of each leaf, as JSON has it."""

    def fingerprint(leaf: np.ndarray) -> list:
        # As bytes, because bfloat16 has no buffer protocol.
        data = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        return [zlib.crc32(data.data), str(leaf.dtype), list(leaf.shape)]

    with ThreadPoolExecutor() as pool:  # zlib lets the other threads run.
        return dict(zip(leaves, pool.map(fingerprint, leaves.values()), strict=True))


def state_checksum(stored: Mapping[str, list]) -> int:
    """One number, from 0 to 2^32 - 1, for the fingerprints of all leaves."""
    return zlib.crc32(json.dumps(sorted(stored.items())).encode())


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON record with a checksum of its own."""
    text = json.dumps(record)
    return {"record": text, "crc32": zlib.crc32(text.encode())}


def unsealed(seal: Mapping[str, Any]) -> dict[str, Any]:
    """The record of `sealed`.

    Raises:
      ValueError: its checksum is wrong.
    """
    if zlib.crc32(seal["record"].encode()) != seal["crc32"]:
        raise ValueError("checksum of the integrity record is wrong")
    return json.loads(seal["record"])


def differences(wanted: Leaves, stored: Mapping[str, list]) -> list[str]:
    """One line for each leaf whose dtype or shape is not as wanted.

    Args:
      wanted: arrays or `jax.ShapeDtypeStruct` by path.
      stored: fingerprints.
    """
    expected = {name: _kind(*_dtype_and_shape(leaf)) for name, leaf in wanted.items()}
    found = {name: _kind(dtype, shape) for name, (_, dtype, shape) in stored.items()}
    nothing = "nothing"
    return [
        f"{name}: expected {expected.get(name, nothing)}, found {found.get(name, nothing)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def _kind(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _dtype_and_shape(leaf: Any) -> tuple[str, Sequence[int]]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        # Without x64 a float64 target can only become float32.
        return str(jax.dtypes.canonicalize_dtype(leaf.dtype)), leaf.shape
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return str(leaf.dtype), leaf.shape
