"""The bundle of a detector: all of it comes back, what cannot be is told, and who does not run it says so."""

import dataclasses
import json
import re
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from qsdt_jax.data.dense.buckets import Buckets, grid_of
from qsdt_jax.deploy import reference
from qsdt_jax.deploy.bundle import Bundle, bundle_bytes, read_bundle, write_bundle
from qsdt_jax.deploy.detector import OUTPUTS
from qsdt_jax.deploy.fold import fold_detector
from qsdt_jax.detection.inference import Settings
from qsdt_jax.errors import UserError
from tests.deploy.nets import draw_variables, tiny_detector

SETTINGS = Settings(anchor_scale=4.0, proposals=(20, 12), score_threshold=0.0, detections=5)
BUCKETS = Buckets(32, 64, ((32, 64), (64, 32)), grid_of((32, 48)))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    model = tiny_detector()
    return Bundle(
        program=fold_detector(model, draw_variables(model)),
        class_names=("dark", "bright"),
        image_size=(32, 48),
        crop_ratio=1.0,
        mean=(0.0,),
        std=(1.0,),
        architecture={},
        origin={},
        buckets=BUCKETS,
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def file(bundle, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / "model.qsdt"
    assert write_bundle(file, bundle) == file.stat().st_size == sum(bundle_bytes(bundle).values())
    return file


def changed(file: Path, folder: Path, change) -> Path:
    """The bundle with another manifest and the checksum that belongs to it."""
    content = file.read_bytes()
    _, data = reference.split(content)
    manifest = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    change(manifest)
    text = json.dumps(manifest).encode()
    head = content[8:12] + len(text).to_bytes(4, "little")
    start = reference.MAGIC + head + zlib.crc32(text, zlib.crc32(head)).to_bytes(4, "little") + text
    other = folder / "other.qsdt"
    other.write_bytes(start.ljust(reference.aligned(len(start), reference.ALIGNMENT), b"\0") + data)
    return other


def test_everything_comes_back(bundle, file):
    read = read_bundle(file)
    assert dataclasses.replace(read, program=bundle.program) == bundle
    assert jax.tree.structure(read.program) == jax.tree.structure(bundle.program)
    jax.tree.map(np.testing.assert_array_equal, read.program, bundle.program)
    assert int.from_bytes(file.read_bytes()[8:12], "little") == 4  # Older readers say that it is newer.
    manifest = reference.read(file)
    assert sum(len(part["steps"]) for part in manifest["programs"].values()) == len(bundle.program.steps)
    with pytest.raises(ValueError, match="a detector, which is not run by NumPy"):
        reference.forward(manifest, np.zeros((1, 32, 48, 3), np.float32))


def test_other_programs_are_refused(bundle):
    for form in ("ONNX model", "StableHLO program"):
        with pytest.raises(UserError, match=f"a detector has no {form}; expected a network that classifies"):
            bundle.require_program(form)


def set_detector(key, value):
    return lambda manifest: manifest["detector"].update({key: value})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_detector("anchor_scale", 0), "anchor_scale of its detector is 0"),
        (set_detector("anchor_scale", "4"), "anchor_scale of its detector is '4'"),
        (set_detector("geometry", "flat"), "geometry of its detector is 'flat'"),
        (set_detector("proposals", [20]), "proposals of its detector is (20,)"),
        (set_detector("proposals", [20, 10**9]), "proposals of its detector is (20, 1000000000)"),
        (set_detector("score_threshold", 2), "score_threshold of its detector is 2"),
        (set_detector("detections", 1.5), "detections of its detector is 1.5"),
        (set_detector("resolution", 0), "resolution of its detector is 0"),
        (lambda manifest: manifest["image"].update(slicing="time"), "a detector of frames of events"),
        (lambda manifest: manifest["image"].pop("buckets"), "its manifest is not that of a bundle (KeyError"),
        (set_detector("colour", 1), "its manifest is not that of a bundle (TypeError"),
        (lambda manifest: manifest["programs"].pop("rpn"), "expected " + ", ".join(OUTPUTS)),
        (
            lambda manifest: manifest["programs"]["rpn"]["outputs"].pop("delta"),
            "its rpn has other outputs than a detector's: expected score, delta",
        ),
        (lambda manifest: manifest["classes"].pop(), "1 class names, but 2 class scores"),
    ],
)
def test_what_cannot_be_is_told(file, tmp_path, change, told):
    with pytest.raises(UserError, match=re.escape(told)):
        read_bundle(changed(file, tmp_path, change))
