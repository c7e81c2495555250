"""A bundle whose numbers somebody has changed, checksums and all: refused in one line or read, and soon."""

import copy
import functools
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsdt_jax import bounds
from qsdt_jax.deploy import reference
from qsdt_jax.deploy.bundle import read_bundle, write_bundle
from qsdt_jax.errors import UserError
from tests.deploy.nets import draw_variables, short_net
from tests.deploy.test_bundle import bundle_of

Key = tuple[str | int, ...]
VALUES = [0, -1, 2**31, 2**40, 2**63, 10**30, 1e308, 1e-300, float("nan"), float("inf"), "x", None, [], {}]
SECONDS = 10  # For a machine that does much else; what is refused takes milliseconds, what is read a second.


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[dict, bytes]:
    """Manifest and data of a bundle."""
    file = tmp_path_factory.mktemp("bundle") / "model.qsdt"
    model = short_net(bits=3, timesteps=2)
    write_bundle(file, bundle_of(model, draw_variables(model)))
    content = file.read_bytes()
    manifest, data = reference.split(content)
    return manifest, bytes(data)


def written(file: Path, manifest: dict, data: bytes) -> Path:
    """With checksums that are right."""
    text = json.dumps(manifest).encode()
    head = reference.VERSION.to_bytes(4, "little") + len(text).to_bytes(4, "little")
    start = reference.MAGIC + head + zlib.crc32(text, zlib.crc32(head)).to_bytes(4, "little") + text
    file.write_bytes(start.ljust(reference.aligned(len(start), reference.ALIGNMENT), b"\0") + data)
    return file


def numbers(tree: Any, key: Key = ()) -> Iterator[Key]:
    """Where the numbers are."""
    if isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers(value, (*key, name))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield key


def changed(manifest: dict, key: Key, value: Any) -> dict:
    manifest = copy.deepcopy(manifest)
    functools.reduce(lambda tree, name: tree[name], key[:-1], manifest)[key[-1]] = value
    return manifest


def outcome(file: Path) -> str:
    """What is said, "" where it is read."""
    start = time.monotonic()
    try:
        read_bundle(file)
        return ""
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    finally:
        assert time.monotonic() - start < SECONDS


@pytest.mark.slow
def test_any_number_may_be_anything(parts, tmp_path):
    manifest, data = parts
    kinds = {step["kind"]: i for i, step in enumerate(manifest["steps"])}.values()
    keys = [k for k in numbers(manifest) if k[0] not in ("steps", "architecture", "origin")]
    keys += [k for k in numbers(manifest) if k[0] == "steps" and k[1] in kinds]
    assert len(keys) > 20
    generator, refused = np.random.default_rng(0), 0
    for key in keys:
        for i in generator.choice(len(VALUES), 4, replace=False):
            file = written(tmp_path / "m.qsdt", changed(manifest, key, VALUES[i]), data)
            refused += bool(outcome(file))
    assert refused > 2 * len(keys)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (("neuron", "timesteps"), 10**9, f"timesteps of its neuron is {10**9}; expected at most 1024"),
        (("neuron", "levels"), 2**40, f"levels of its neuron is {2**40}; expected at most 4096"),
        (("image", "size"), [2**40, 2**40], "images of 1099511627776x1099511627776 pixels; expected at most"),
        (("image", "crop_ratio"), 1e-30, "crop_ratio 1e-30; expected a number in 0..1, not 0 nor near it"),
        (("bits",), 10**9, "weights of 1000000000 bits; expected 1 to 8"),
        (("data_bytes",), 2**63, "truncated: "),
        (("steps", 0, "weights", "shape", 0), 2**40, "bytes behind the data"),
        (("steps", 0, "weights", "offset"), -4, "shape [7, 7, 3, 4] and offset -4 of the weights of"),
        (("steps", 0, "scale", "shape"), [2**62], "bytes behind the data"),
        (("steps", 0, "stride"), 2**40, "has stride 1099511627776 and padding 3"),
        (("steps", 0, "padding"), 2**40, "has stride 2 and padding 1099511627776"),
        (("steps", 0, "padding"), 1.0, "has stride 2 and padding 1.0"),
    ],
)
def test_what_is_said(parts, tmp_path, key, value, told):
    manifest, data = parts
    assert told in outcome(written(tmp_path / "m.qsdt", changed(manifest, key, value), data))


def test_the_largest_that_is_allowed_is_read_soon(parts, tmp_path):
    """Many time steps are not traced one by one to be checked; what cannot fit the memory is told."""
    manifest, data = parts
    many = changed(manifest, ("neuron", "timesteps"), bounds.TIMESTEPS)
    assert outcome(written(tmp_path / "m.qsdt", many, data)) == ""
    wide = changed(many, ("image", "size"), [bounds.SIDE, bounds.SIDE])
    assert "one image in this network would take" in outcome(written(tmp_path / "m.qsdt", wide, data))


def test_lists_without_end(parts, tmp_path):
    manifest, data = parts
    pool = {"kind": "add", "name": "a", "left": "b", "right": "c"}
    many = {**manifest, "steps": manifest["steps"] + [pool] * bounds.STEPS_OF_A_PROGRAM}
    assert "steps; expected at most 16,384" in outcome(written(tmp_path / "m.qsdt", many, data))
    deep = b"[" * 100_000
    head = reference.VERSION.to_bytes(4, "little") + len(deep).to_bytes(4, "little")
    checksum = zlib.crc32(deep, zlib.crc32(head)).to_bytes(4, "little")
    (tmp_path / "deep.qsdt").write_bytes(reference.MAGIC + head + checksum + deep)
    assert "RecursionError" in outcome(tmp_path / "deep.qsdt")


def test_the_reader_alone_has_the_same_bound(parts):
    manifest, _ = parts
    assert reference.LARGEST_TIMESTEPS == bounds.TIMESTEPS
    endless = changed(manifest, ("neuron", "timesteps"), 10**9)
    with pytest.raises(ValueError, match="1000000000 time steps; expected 1 to 1024"):
        reference.run(endless, np.zeros((1, 32, 48, 3), np.float32))
