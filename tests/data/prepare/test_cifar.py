"""CIFAR's archives of Python 2 pickles."""

import gzip
import io
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.data.prepare.cifar import CIFAR10, CIFAR100, Layout, read_cifar
from qsdt_jax.data.prepare.records import check
from qsdt_jax.errors import UserError
from tests.data.prepare.files import python2_pickle, tar_of, write_files

NAMES10 = (b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck")
NAMES100 = tuple(b"class_%02d" % i for i in range(100))


def images(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def batch(seed: int, labels: dict[bytes, list[int]]) -> bytes:
    count = len(next(iter(labels.values())))
    planes = images(seed, count).transpose(0, 3, 1, 2).reshape(count, -1)
    names = [b"picture_s_%06d.png" % i for i in range(count)]
    return python2_pickle({b"batch_label": b"a batch", **labels, b"data": planes, b"filenames": names})


TEN = {f"data_batch_{i}": batch(i, {b"labels": [i, 9 - i, 3]}) for i in range(1, 6)}
TEN |= {"test_batch": batch(6, {b"labels": [8, 0]})}
TEN |= {"batches.meta": python2_pickle({b"num_cases_per_batch": 10000, b"label_names": list(NAMES10)})}
FINE = {"train": [99, 0, 42], "test": [7]}
HUNDRED = {
    split: batch(10 + len(fine), {b"fine_labels": fine, b"coarse_labels": [1] * len(fine)})
    for split, fine in FINE.items()
}
HUNDRED |= {"meta": python2_pickle({b"fine_label_names": list(NAMES100), b"coarse_label_names": [b"x"] * 20})}
FILES = {"CIFAR-10": TEN, "CIFAR-100": HUNDRED}


def write(folder: Path, layout: Layout, form: str) -> Path:
    """Writes a data set in one of its forms and returns what a user would name as its source."""
    inside = {f"{layout.folder}/{name}": content for name, content in FILES[layout.title].items()}
    if form in ("archive", "archive itself"):
        write_files(folder, {layout.archive: tar_of(inside, "w:gz")})
    else:
        write_files(folder, inside)
    return {"archive itself": folder / layout.archive, "folder itself": folder / layout.folder}.get(
        form, folder
    )


def test_a_link_in_the_archive_is_passed_over(tmp_path):
    """Also one that leads nowhere."""
    archive = io.BytesIO(tar_of({f"{CIFAR10.folder}/{name}": content for name, content in TEN.items()}))
    link = tarfile.TarInfo(f"{CIFAR10.folder}/readme.html")
    link.type, link.linkname = tarfile.SYMTYPE, "nowhere.html"
    with tarfile.open(fileobj=archive, mode="a") as tar:
        tar.addfile(link)
    write_files(tmp_path, {CIFAR10.archive: gzip.compress(archive.getvalue())})
    assert len(read_cifar(tmp_path, CIFAR10).splits["train"]) == 15


@pytest.mark.parametrize("form", ["archive", "archive itself", "folder", "folder itself"])
def test_cifar10(tmp_path, form):
    dataset = read_cifar(write(tmp_path, CIFAR10, form), CIFAR10)
    assert dataset.name == "cifar10"
    assert tuple(dataset.class_names) == tuple(name.decode() for name in NAMES10)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert [r.label for r in train] == [x for i in range(1, 6) for x in (i, 9 - i, 3)]
    assert [r.label for r in test] == [8, 0]
    expected = np.concatenate([images(i, 3) for i in range(1, 6)] + [images(6, 2)])
    found = [np.asarray(Image.open(io.BytesIO(r.content.read()))) for r in (*train, *test)]
    np.testing.assert_array_equal(found, expected)
    assert Image.open(io.BytesIO(train[0].content.read())).format == "PNG"
    # The archive uses names twice; a record's stands for itself.
    assert len({r.name for r in train}) == 15


def test_cifar100_has_its_fine_classes(tmp_path):
    dataset = read_cifar(write(tmp_path, CIFAR100, "archive"), CIFAR100)
    assert (dataset.name, len(dataset.class_names)) == ("cifar100", 100)
    assert {split: [r.label for r in records] for split, records in dataset.splits.items()} == FINE


def test_the_whole_is_asked_for(tmp_path):
    dataset = read_cifar(write(tmp_path, CIFAR10, "archive"), CIFAR10)
    with pytest.raises(UserError, match="found 15 train of 50,000, 2 test of 10,000; allow_partial=True"):
        check(dataset, allow_partial=False)


# Pickled again


def as_text(value):
    """What Python 3 makes of the pickles, read with encoding="latin1"."""
    match value:
        case dict():
            return {as_text(key): as_text(x) for key, x in value.items()}
        case list():
            return [as_text(x) for x in value]
        case bytes():
            return value.decode("latin1")
    return value


CHANGES = {
    "bytes": lambda content: content,
    "text": as_text,
    "arrays": lambda content: {
        key: np.asarray(x) if isinstance(x, list) else x for key, x in as_text(content).items()
    },
    "scalars": lambda content: {
        key: tuple(map(np.int64, x)) if key == b"labels" else x for key, x in content.items()
    },
    "columns first": lambda content: {
        key: np.asfortranarray(x) if key == b"data" else x for key, x in content.items()
    },
}


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("change", CHANGES)
def test_files_that_were_pickled_again(tmp_path, change, protocol, core):
    """By any Python 3, with NumPy 1 or 2: the same records."""
    again = {}
    for name, content in TEN.items():
        again[name] = pickle.dumps(CHANGES[change](pickle.loads(content, encoding="bytes")), protocol)
        if protocol < 4:  # Later ones write the length of the name before it.
            again[name] = re.sub(rb"numpy\._?core", core, again[name])
    write_files(tmp_path / "again" / CIFAR10.folder, again)
    found = read_cifar(tmp_path / "again", CIFAR10)
    expected = read_cifar(write(tmp_path, CIFAR10, "folder"), CIFAR10)
    assert found.class_names == expected.class_names
    for split, records in expected.splits.items():
        for ours, theirs in zip(found.splits[split], records, strict=True):
            assert (ours.name, ours.label, ours.content.read()) == (
                theirs.name,
                theirs.label,
                theirs.content.read(),
            )


def test_an_archive_whose_members_begin_with_a_dot(tmp_path):
    inside = {f"./{CIFAR10.folder}/{name}": content for name, content in TEN.items()}
    write_files(tmp_path, {CIFAR10.archive: tar_of(inside, "w:gz")})
    assert len(read_cifar(tmp_path, CIFAR10).splits["train"]) == 15


# Mistakes and damage


def refusal(source: Path, layout: Layout = CIFAR10) -> str:
    with pytest.raises(UserError) as caught:
        read_cifar(source, layout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_other_archive(tmp_path):
    write(tmp_path, CIFAR100, "archive")
    assert "expected cifar-10-python.tar.gz or cifar-10-batches-py/; found cifar-100" in refusal(tmp_path)
    assert "has no cifar-10-batches-py/batches.meta" in refusal(tmp_path / CIFAR100.archive)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_archive_that_is_cut_off(tmp_path, part):
    source = write(tmp_path, CIFAR10, "archive itself")
    source.write_bytes(source.read_bytes()[: int(part * source.stat().st_size)])
    assert "damaged or cut off" in refusal(source)


def test_archive_with_flipped_bits(tmp_path):
    """Else they would be pixels of other colours."""
    source = write(tmp_path, CIFAR10, "archive itself")
    good, generator = source.read_bytes(), np.random.default_rng(0)
    for place in generator.integers(20, len(good), 40):
        source.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        assert f"{source} is no tar.gz, or damaged" in refusal(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "data_batch_3 is missing"),
        (b"", "data_batch_3 is damaged"),
        (TEN["data_batch_3"][:-30], "data_batch_3 is damaged"),
        (python2_pickle([1]), "data_batch_3 holds list"),
        (python2_pickle({b"labels": [1]}), "has no pixels"),
        (batch(1, {b"labels": [1, 10]}), r"labels'? of 0\.\.9"),
        (batch(1, {b"fine_labels": [1]}), "has no labels"),
        (pickle.dumps({"data": 1, b"data": 2}), "holds a key twice, as text and as bytes"),
        (pickle.dumps({"labels": [True], "data": np.zeros((1, 3072), np.uint8)}), "has no labels"),
        (pickle.dumps({"labels": np.array([0.0]), "data": np.zeros((1, 3072), np.uint8)}), "has no labels"),
    ],
)
def test_damaged_file(tmp_path, content, message):
    source = write(tmp_path, CIFAR10, "folder itself")
    (source / "data_batch_3").unlink()
    if content is not None:
        (source / "data_batch_3").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_cifar(source, CIFAR10)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "encodes a text in 'rot13'"),
        (b"c__builtin__\nbytes\n(I9\ntR.", "is damaged"),
        (b"cnumpy._core.multiarray\nfromfile\n(Vx\ntR.", "names the code numpy._core.multiarray.fromfile"),
    ],
)
def test_what_is_allowed_of_python_3_and_numpy_2_is_no_more_than_they_write(tmp_path, call, told):
    source = write(tmp_path / "files", CIFAR10, "folder itself")
    (source / "data_batch_3").write_bytes(call)
    assert f"data_batch_3 {told}" in refusal(source)


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("evil",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_a_pickle_is_never_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "files", CIFAR10, "folder itself")
    (source / "data_batch_3").write_bytes(pickle.dumps({1: Evil()}, protocol))
    assert "data_batch_3 names the code posix.mkdir, which is not run" in refusal(source)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
