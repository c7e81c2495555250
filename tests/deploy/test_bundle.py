"""Bundles: what is written comes back, in few bytes; what is damaged, cut or foreign is refused."""

import ast
import json
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from qsdt_jax.deploy import reference
from qsdt_jax.deploy.bundle import Bundle, bundle_bytes, read_bundle, write_bundle
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.integer import integer_forward
from qsdt_jax.errors import UserError
from qsdt_jax.models import SIZES, Classifier, QSDTransformer
from qsdt_jax.models.shapes import variable_shapes
from tests.deploy.nets import draw_images, draw_variables, short_net

MEGABYTE = 1e6


def bundle_of(model: Classifier, variables: dict) -> Bundle:
    return Bundle(
        program=fold(model, variables),
        class_names=tuple(f"class {i}" for i in range(model.num_classes)),
        image_size=(32, 48),
        crop_ratio=0.875,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        architecture={"depth": 4},
        origin={"step": 7},
    )


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    model = short_net(bits=3, timesteps=2, decay=0.3, rectify="norm", attention_scale=0.3)
    return bundle_of(model, draw_variables(model))


@pytest.fixture(scope="module")
def file(bundle, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / "model.qsdt"
    assert write_bundle(file, bundle) == file.stat().st_size == sum(bundle_bytes(bundle).values())
    return file


CLASSES = json.dumps({"classes": [f"class {i}" for i in range(10)]}, separators=(",", ":")).encode()[1:-1]
HEADS = b'"k":"block3_0/attn/k_neuron","v":"block3_0/attn/v_neuron","heads":4'


def test_everything_comes_back(bundle, file):
    found = read_bundle(file)
    for name in ("class_names", "image_size", "crop_ratio", "mean", "std", "architecture", "origin"):
        assert getattr(found, name) == getattr(bundle, name), name
    assert jax.tree.structure(found.program) == jax.tree.structure(bundle.program)
    assert found.program.neuron == bundle.program.neuron
    jax.tree.map(np.testing.assert_array_equal, found.program, bundle.program)
    assert [p.name for p in file.parent.iterdir()] == ["model.qsdt"]


def test_two_heads_come_back(tmp_path):
    """The last step is their sum, and no layer."""
    model = short_net(distillation_head=True)
    written = bundle_of(model, draw_variables(model))
    write_bundle(tmp_path / "model.qsdt", written)
    found = read_bundle(tmp_path / "model.qsdt").program
    assert found.outputs == written.program.outputs == (("logits", "residual1"),)
    assert found.num_classes == 10


@pytest.mark.slow
@pytest.mark.parametrize(("size", "megabytes"), [("S", 8.09), ("M", 16.44), ("L", 28.70)])
def test_published_sizes(size, megabytes, tmp_path):
    """One percent above the honest size, for the manifest, would be allowed."""
    model = QSDTransformer(**SIZES[size])
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variable_shapes(model))
    assert write_bundle(tmp_path / "model.qsdt", bundle_of(model, variables)) <= megabytes * MEGABYTE


# --- Damage --------------------------------------------------------------------------------------------


def refusal(file: Path) -> str:
    """What the reader says, on one line."""
    with pytest.raises(UserError) as refused:
        read_bundle(file)
    message = str(refused.value)
    assert message.startswith(f"bundle {file}") and "\n" not in message
    return message


def test_every_flipped_bit_is_noticed(file, tmp_path):
    """Of the header each byte, of the rest many; the gaps between tensors carry nothing."""
    content, damaged = file.read_bytes(), tmp_path / "damaged.qsdt"
    manifest, data = reference.split(content)
    start = len(content) - len(data)
    filled = np.zeros(len(content), bool)
    length = int.from_bytes(content[12:16], "little")
    filled[: reference.HEADER_BYTES + length] = True
    for step in manifest["steps"]:
        if step["kind"] == "linear":
            for name, bits in (("weights", 3), ("scale", 32), ("shift", 32)):
                offset, count = step[name]["offset"], int(np.prod(step[name]["shape"]))
                filled[start + offset : start + offset + -(-count * bits // 8)] = True
    places = np.flatnonzero(filled)
    assert 0.9 < len(places) / len(content) < 1
    generator = np.random.default_rng(0)
    chosen = [*range(reference.HEADER_BYTES), *generator.choice(places, 300)]
    for place in chosen:
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.integers(8)
        damaged.write_bytes(flipped)
        assert "damaged" in (message := refusal(damaged)) or place < 16, message


def test_every_truncation_is_noticed(file, tmp_path):
    content, cut = file.read_bytes(), tmp_path / "cut.qsdt"
    for length in (8, 15, 19, 20, 500, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        assert "truncated" in refusal(cut)
    cut.write_bytes(content + b"\0")
    assert f"damaged: {len(content) + 1} bytes, expected {len(content)}" in refusal(cut)


def test_foreign_files(tmp_path):
    for content in (
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"\x89QSDT\n\x1a" + bytes(99),
    ):
        file = tmp_path / "foreign.qsdt"
        file.write_bytes(content)
        assert "not a bundle" in refusal(file)


def test_newer_version(file, tmp_path):
    """With a right checksum it is named as such."""
    content, newer = file.read_bytes(), tmp_path / "newer.qsdt"
    newer.write_bytes(signed(content, version=reference.VERSION + 1))
    assert (
        f"version {reference.VERSION + 1} of the format; this reader knows up to {reference.VERSION}"
        in refusal(newer)
    )


def signed(content: bytes, old: bytes = b"", new: bytes = b"", *, version: int = reference.VERSION) -> bytes:
    """A bundle with another manifest or version, and the checksum that belongs to it."""
    _, data = reference.split(content)
    text = content[20 : 20 + int.from_bytes(content[12:16], "little")]
    if old:
        assert text.count(old) == 1
        text = text.replace(old, new)
    head = version.to_bytes(4, "little") + len(text).to_bytes(4, "little")
    checksum = zlib.crc32(text, zlib.crc32(head)).to_bytes(4, "little")
    start = reference.MAGIC + head + checksum + text
    return start.ljust(reference.aligned(len(start), reference.ALIGNMENT), b"\0") + data


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"kind":"pool"', b'"kind":"poll"', "its manifest is not that of a bundle (KeyError: 'poll')"),
        (b'"bits":3', b'"bats":3', "its manifest is not that of a bundle (KeyError: 'bits')"),
        (b'"input":"pool"', b'"input":"loop"', "step head_neuron reads loop, which no step before it gives"),
        (b'"class 0",', b"          ", "9 class names, but 10 class scores"),
        (b'{"logits":"head"}', b'{"logits":"haed"}', "its output logits is haed, which no step gives"),
        (b'{"logits":"head"}', b'{"logits":"head_neuron"}', "which gives spikes; expected real values"),
        (b'{"logits":"head"}', b'{"logits":"block3_0/residual1"}', "10 class names, but 16 class scores"),
        (
            b'{"logits":"head"}',
            b'{"scores":"head"}',
            "its network tells no classes: expected layers, and one output",
        ),
        (b'"size":[32,48]', b'"size":[30,48]', "images of 30x48 pixels; expected multiples of 16"),
        (b'"size":[32,48]', b'"size":["32",48]', "images of 32x48 pixels; expected multiples of 16"),
        (b'"channels":3', b'"channels":1', "images of 1 channels, but its first layer takes 3"),
        (b'"crop_ratio":0.875', b'"crop_ratio":0', "crop_ratio 0; expected a number in 0..1, not 0"),
        (b'"mean":[0.485,', b'"mean":[', "mean [0.456, 0.406]; expected one number, or one for each channel"),
        (b'"std":[0.229', b'"std":[0', "std [0, 0.224, 0.225]; expected one positive number"),
        (b'"std":[0.229', b'"std":[NaN', "std [nan, 0.224, 0.225]; expected one positive number"),
        (b'"levels":4', b'"levels":300', "spike counts up to D = 300 do not fit int8; expected D <= 127"),
        (b'"levels":4', b'"levels":0', "levels of its neuron is 0; expected a positive whole number"),
        (b'"timesteps":2', b'"timesteps":1.5', "timesteps of its neuron is 1.5"),
        (b'"scale":4.0', b'"scale":0', "scale of its neuron is 0; expected a positive number"),
        (b'"scale":4.0', b'"scale":Infinity', "scale of its neuron is inf; expected a positive number"),
        (b'"decay":0.3', b'"decay":-1', "decay of its neuron is -1; expected a number in 0..1"),
        (b'"reset":"soft"', b'"reset":"mild"', "reset of its neuron is 'mild'; expected soft or hard"),
        (CLASSES, b'"classes":"abcdefghij"', "its class names are no list of texts"),
        (b'"class 0"', b"0", "its class names are no list of texts"),
        (
            HEADS,
            HEADS.replace(b"4", b"5"),
            "step block3_0/attn cannot be run on block3_0/attn/q_neuron [2, 2",
        ),
        (HEADS, HEADS.replace(b"4", b"0"), "step block3_0/attn has 0 heads"),
        (b'"q":"block3_0/attn/q_neuron"', b'"q":"block3_0/attn/q_repconv/conv2"', "attn takes spikes, but"),
        (b'"left":"downsample1_1/conv"', b'"left":"images"', "cannot be run on images [2, 32, 48, 3], conv_"),
    ],
)
def test_manifests_by_another_hand(file, tmp_path, old, new, told):
    """Their checksums are right, and still they cannot be run."""
    other = tmp_path / "other.qsdt"
    other.write_bytes(signed(file.read_bytes(), old, new))
    assert told in refusal(other)


def test_files_that_cannot_be_read(tmp_path):
    assert "No such file or directory" in refusal(tmp_path / "none.qsdt")
    assert "Is a directory" in refusal(tmp_path)


def test_full_disk_leaves_the_old_file(bundle, tmp_path):
    file = tmp_path / "model.qsdt"
    file.write_bytes(b"old")
    (tmp_path / "model.qsdt.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"model\.qsdt cannot be written: No space left on device"):
        write_bundle(file, bundle)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.qsdt"]


def test_folder_that_is_not_there(bundle, tmp_path):
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        write_bundle(tmp_path / "none" / "model.qsdt", bundle)


# --- The reader without this project --------------------------------------------------------------------

RUN_ALONE = """
import sys
import numpy as np
import reference
bundle = reference.read("model.qsdt")
np.save("logits.npy", reference.forward(bundle, np.load("images.npy")))
print(sorted(name for name in ("jax", "flax", "qsdt_jax") if name in sys.modules), bundle["classes"][0])
"""


@pytest.mark.slow
def test_reference_runs_with_numpy_alone(bundle, file, tmp_path):
    """A copy of the file in another place, where nothing of the project can be imported."""
    source = Path(reference.__file__)
    modules = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {str(m).split(".")[0] for m in modules} - set(sys.stdlib_module_names) == {"numpy"}

    (tmp_path / "reference.py").write_bytes(source.read_bytes())
    (tmp_path / "model.qsdt").write_bytes(file.read_bytes())
    images = draw_images(2, 32, 48, 3)
    np.save(tmp_path / "images.npy", images)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{RUN_ALONE}"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[] class 0\n", 0), done.stderr
    expected = jax.jit(integer_forward)(bundle.program, images)
    assert np.array_equal(np.load(tmp_path / "logits.npy"), expected)


def test_manifest_is_plain_json(file):
    content = file.read_bytes()
    manifest = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert (
        manifest["bits"] == 3 and manifest["neuron"]["levels"] == 4 and manifest["neuron"]["timesteps"] == 2
    )
    assert manifest["classes"][3] == "class 3"
    kinds = {step["kind"] for step in manifest["steps"]}
    assert kinds == {"linear", "fire", "attend", "add", "pool"}
