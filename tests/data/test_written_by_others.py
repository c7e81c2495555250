"""JSON of prepared data and headers of safetensors with anything in place of a value: one line, or read."""

import copy
import functools
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from qsdt_jax.data.prepare.imagefolder import read_imagefolder
from qsdt_jax.data.prepare.writer import prepare
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import UserError
from qsdt_jax.interop.timm import read_timm
from tests.data.prepare.files import class_folder

VALUES = [0, -1, 2**40, 2**63, 1e308, float("nan"), "x", None, [], {}]
TEXTS = ["", "[", "3", "[]", "[" * 100_000]
SECONDS = 10


def places(tree: Any, key: tuple = ()) -> Iterator[tuple]:
    if key:
        yield key
    if isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*key, name))


def spoiled(text: str) -> Iterator[str]:
    """The JSON text with each of its values changed, by one of `VALUES` in turn."""
    tree, number = json.loads(text), 0
    for key in places(tree):
        for _ in range(3):
            changed = copy.deepcopy(tree)
            inner = functools.reduce(lambda found, name: found[name], key[:-1], changed)
            inner[key[-1]] = VALUES[number % len(VALUES)]
            number += 1
            yield json.dumps(changed)
    yield from TEXTS


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    class_folder(folder / "train", ("a", "b"), 2)
    class_folder(folder / "val", ("a", "b"), 2, seed=9)
    return folder


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "preparation.json"])
def test_prepared_data(source, tmp_path, name):
    dataset = read_imagefolder(source)
    directory = prepare(dataset, tmp_path).directory
    file, refused = directory / name, 0
    for text in spoiled(file.read_text()):
        file.write_text(text)
        start = time.monotonic()
        try:
            if name == "preparation.json":
                prepare(dataset, tmp_path)
            else:
                TfdsSource(directory, "train")[0]
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        assert time.monotonic() - start < SECONDS, text
    assert refused >= len(TEXTS)


def test_safetensors(tmp_path):
    whole = save({"head.fc.fc2.weight": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})
    length = struct.unpack("<Q", whole[:8])[0]
    file, refused = tmp_path / "a.safetensors", 0
    headers = [text.encode() for text in spoiled(whole[8 : 8 + length].decode())]
    contents = [struct.pack("<Q", len(header)) + header + whole[8 + length :] for header in headers]
    contents += [struct.pack("<Q", claimed) + whole[8:] for claimed in (0, 2**40, 2**63, 2**64 - 1)]
    for content in contents:
        file.write_bytes(content)
        start = time.monotonic()
        try:
            read_timm(file)
        except UserError:
            refused += 1
        assert time.monotonic() - start < SECONDS
    assert refused > len(contents) // 2
