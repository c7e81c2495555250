"""Files in `data/` were written by real PyTorch, see `data/make_fixtures.py`; hostile ones are made here."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.interop import torch_file

DATA = Path(__file__).parent / "data"


def expected_tensors() -> dict[str, np.ndarray]:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    numbers = np.array([-2, 0, 1, 100])
    return {
        "base": base,
        "transposed": base.transpose(2, 0, 1),
        "sliced": base[1, ::2, 1:],
        "expanded": np.broadcast_to(base[:, :1, 0], (2, 5)),
        "scalar": np.array(2.5, np.float32),
        "scalar_view": np.array(23, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.array([1, -1], np.float32),
        "float64": np.array([1 / 3]),
        "float16": np.array([1 / 3], np.float16),
        "bfloat16": np.array([1 / 3, -3], ml_dtypes.bfloat16),
        "int64": numbers,
        "int32": numbers.astype(np.int32),
        "int16": numbers.astype(np.int16),
        "int8": numbers.astype(np.int8),
        "uint8": np.array([0, 255], np.uint8),
        "bool": numbers > 0,
    }


@pytest.mark.parametrize("file", ["tensors.pth", "tensors_protocol5.pth"])
def test_every_view_and_type_of_a_real_file(file):
    found, expected = torch_file.load(DATA / file), expected_tensors()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_training_checkpoint_gives_the_model_without_the_prefix():
    tensors = torch_file.load(str(DATA / "checkpoint.pth"))
    assert list(tensors) == [
        "0.weight", "0.bias", "1.weight", "1.bias",
        "1.running_mean", "1.running_var", "1.num_batches_tracked",
    ]  # fmt: skip
    np.testing.assert_array_equal(tensors["0.weight"], np.arange(6).reshape(3, 2, 1, 1))
    np.testing.assert_array_equal(tensors["1.bias"], [30, 31, 32])
    assert tensors["1.num_batches_tracked"].shape == ()


def test_evil_file_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"evil\.pth: names the code posix\.system"):
        torch_file.load(DATA / "evil.pth")
    assert not list(tmp_path.iterdir())


def test_whole_module_is_refused_with_advice():
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear.*model\.state_dict"):
        torch_file.load(DATA / "whole_module.pth")


# --- Files made by hand ---


class Call:
    """Pickles as the call of a function by name, of whatever module."""

    def __init__(self, module: str, name: str, *arguments):
        self.module, self.name, self.arguments = module, name, arguments

    def opcodes(self, memo_free_dumps) -> bytes:
        called = f"c{self.module}\n{self.name}\n".encode()
        return called + b"(" + b"".join(map(memo_free_dumps, self.arguments)) + b"tR"


class Reference(Call):
    """A reference to a storage: type, key and number of elements."""

    def opcodes(self, memo_free_dumps) -> bytes:
        kind = f"c{self.module}\n{self.name}\n".encode()
        key, size = self.arguments
        parts = ["storage", None, key, "cpu", size]
        return b"(" + b"".join(kind if p is None else memo_free_dumps(p) for p in parts) + b"tQ"


def opcodes(value) -> bytes:
    """The opcodes that push a value, without header and end."""
    match value:
        case Call():
            return value.opcodes(opcodes)
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case _:
            return pickle.dumps(value, protocol=2)[2:-1]


def tensor(shape=(2, 2), strides=(2, 1), offset=0, size=4, key="0"):
    storage = Reference("torch", "FloatStorage", key, size)
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, ())


def write(folder, content=None, *, raw=None, entries=None, compression=zipfile.ZIP_STORED) -> Path:
    """A checkpoint with one storage of four floats, its pickle given by content or as it is."""
    data = b"\x80\x02" + opcodes({"a": tensor()} if content is None else content) + b"."
    path = folder / "made.pth"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("made/data.pkl", data if raw is None else raw)
        for name, value in {"data/0": struct.pack("<4f", 1, 2, 3, 4), **(entries or {})}.items():
            archive.writestr(f"made/{name}", value)
    return path


def message(path) -> str:
    with pytest.raises(UserError) as caught:
        torch_file.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_the_files_made_by_hand_are_read(tmp_path):
    a = torch_file.load(write(tmp_path))["a"]
    np.testing.assert_array_equal(a, np.array([[1, 2], [3, 4]], np.float32))


def test_missing_file_folder_and_other_formats(tmp_path):
    assert "no such file" in message(tmp_path / "none.pth")
    assert "is a folder" in message(tmp_path)
    assert "before 1.6" in message(DATA / "legacy.pth")
    other = tmp_path / "other.pth"
    other.write_bytes(b"version https://git-lfs")
    assert "begins with b'version '" in message(other)
    other.write_bytes(b"")
    assert "not a PyTorch checkpoint" in message(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "")
    assert "0 entries data.pkl" in message(other)


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "builtins getattr", "torch.nn Linear", "numpy.core.multiarray frombuffer"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_other_name_is_refused_even_if_never_called(tmp_path, name, protocol):
    module, attribute = name.split()
    named = f"c{module}\n{attribute}\n".encode()
    if protocol == 4:
        named = opcodes(module) + opcodes(attribute) + b"\x93"
    path = write(tmp_path, raw=b"\x80\x02}" + opcodes("x") + named + b"s.")
    assert f"names the code {module}.{attribute}, which is not run" in message(path)


def test_refused_name_is_shown_in_one_printable_line(tmp_path):
    named = opcodes("os\n\x1b[2J" + "x" * 1000) + opcodes("system") + b"\x93."
    text = message(write(tmp_path, raw=b"\x80\x04" + named))
    assert "\x1b" not in text and len(text) < 300


def test_allowed_names_cannot_be_changed_or_misused(tmp_path):
    size = b"ctorch\nSize\n"
    state = b"}" + opcodes("__call__") + size + b"s"
    # BUILD on a class sets nothing: the tensor after it is still read.
    path = write(tmp_path, raw=b"\x80\x02" + size + state + b"b0" + opcodes({"a": tensor()}) + b".")
    assert torch_file.load(path)["a"].shape == (2, 2)
    for arguments in [(), (tensor(),), ((1,), 2)]:
        assert "torch.Size" in message(write(tmp_path, {"a": Call("torch", "Size", *arguments)}))
    assert "FloatStorage" in message(write(tmp_path, {"a": Call("torch", "FloatStorage", 4)}))


@pytest.mark.parametrize(
    "broken",
    [
        tensor(size=3),  # The pickle promises less than the tensor needs.
        tensor(size=400, shape=(20, 20), strides=(20, 1)),  # It promises more than the entry holds.
        tensor(offset=1),
        tensor(offset=2**62),
        tensor(strides=(3, 1)),
        tensor(strides=(2**62, 1)),
        tensor(strides=(-2, 1), offset=2),
        tensor(offset=-1),
        tensor(shape=(-1, 2)),
        tensor(shape=(2.0, 2)),
        tensor(shape=(True, 2)),
        tensor(shape=4),
        tensor(strides=(1,)),
        tensor(size=-1),
        tensor(shape=(2**62, 2**62), strides=(0, 0)),
        tensor(shape=(1,) * 100, strides=(1,) * 100),
        tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)),
        tensor(key="missing"),
        tensor(key="../../data.pkl"),
        Call("torch._utils", "_rebuild_tensor_v2", "0", 0, (2,), (1,)),
    ],
)
def test_tensor_outside_its_storage_is_refused(tmp_path, broken):
    assert "damaged" in message(write(tmp_path, {"weight": broken}))


def test_message_names_the_tensor_that_is_too_long(tmp_path):
    text = message(write(tmp_path, {"weight": tensor(offset=1)}))
    assert text == "damaged: tensor 'weight' needs 5 elements of a storage of 4"


def test_large_strides_of_single_elements_and_of_empty_tensors_are_fine(tmp_path):
    content = {"one": tensor((1, 4), (1000, 1)), "none": tensor((0, 4), (4, 1), offset=4)}
    found = torch_file.load(write(tmp_path, content))
    np.testing.assert_array_equal(found["one"], np.array([[1, 2, 3, 4]], np.float32))
    assert found["none"].shape == (0, 4)


def test_byte_order(tmp_path):
    assert "a" in torch_file.load(write(tmp_path, entries={"byteorder": b"little"}))
    assert "byte order b'big'" in message(write(tmp_path, entries={"byteorder": b"big"}))


def test_compressed_entries_are_refused(tmp_path):
    assert "compressed" in message(write(tmp_path, compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("content", [3, (), {}, {"model": 3}, {"epoch": 1, "weights": {"a": tensor()}}])
def test_file_without_a_model(tmp_path, content):
    text = message(write(tmp_path, content))
    assert "expected tensors by name" in text
    if isinstance(content, dict) and "epoch" in content:
        assert "found the entries 'epoch', 'weights'" in text


def test_prefix_is_removed_unless_two_names_become_one(tmp_path):
    found = torch_file.load(write(tmp_path, {"module.a": tensor(), "b": tensor()}))
    assert sorted(found) == ["a", "b"]
    text = message(write(tmp_path, {"module.a": tensor(), "a": tensor()}))
    assert "'a' and 'module.a'" in text


def test_file_cut_off_anywhere_is_refused(tmp_path):
    whole = (DATA / "checkpoint.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        message(path)


def test_pickle_cut_off_anywhere_is_refused(tmp_path):
    with zipfile.ZipFile(io.BytesIO((DATA / "tensors_protocol5.pth").read_bytes())) as archive:
        whole = archive.read("tensors_protocol5/data.pkl")
    for length in range(0, len(whole), 7):
        message(write(tmp_path, raw=whole[:length]))


def test_flipped_bytes_never_give_anything_but_one_line(tmp_path):
    """Checks also the checksums: a byte flipped in a storage is found."""
    whole = (DATA / "checkpoint.pth").read_bytes()
    generator = np.random.default_rng(0)
    path, refused = tmp_path / "flipped.pth", 0
    for position in generator.integers(0, len(whole), 200):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            torch_file.load(path)
        except UserError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02N",  # No end.
        b"0.",
        b"t.",
        b"(s.",
        b"h\x00.",  # A memo that was never written.
        b"(i__main__\nx\n.",  # INST and OBJ name and call at once.
        b"(o.",
        b"\x82\x01.",  # A name from copyreg's registry.
        b"P0\n.",
        b"NNR.",
        b"NN\x81.",
        b"NQ.",
        b"Na.",
        b"NNNs.",
        b"NN\x93.",
        b"}(Nu.",
        b"cno_space\n.",
        b"I" + b"9" * 5000 + b"\n.",
    ],
)
def test_malformed_pickle_is_refused(tmp_path, raw):
    assert "damaged or cut off" in message(write(tmp_path, raw=raw))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a PyTorch checkpoint: it has 0 bytes; fetch the file again"),
        (b"<!DOCTYPE html>\n<html>", "begins with b'<!DOCTYP', an HTML page; expected a zip archive"),
        (b"\n<html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; expected a zip archive"),
    ],
)
def test_what_was_fetched_in_its_place_is_named(tmp_path, content, told):
    other = tmp_path / "other.pth"
    other.write_bytes(content)
    assert told in message(other)
