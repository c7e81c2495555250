"""CIFAR10-DVS as it is unpacked."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from qsdt_jax.data.events.cifar10dvs import CLASS_NAMES
from qsdt_jax.data.prepare.cifar10dvs import read_cifar10dvs
from qsdt_jax.data.prepare.records import check
from qsdt_jax.errors import UserError
from tests.data.prepare.files import aedat, write_files
from tests.launch.tiny import launch


def streams(name: str, count: int) -> dict[str, bytes]:
    return {f"{name}/cifar10_{name}_{i}.aedat": aedat([i], [i]) for i in range(count)}


def test_split_by_file_number(tmp_path):
    write_files(tmp_path, {k: v for name in CLASS_NAMES for k, v in streams(name, 20).items()})
    dataset = read_cifar10dvs(tmp_path)
    assert tuple(dataset.class_names) == CLASS_NAMES == tuple(sorted(CLASS_NAMES))
    for split, numbers in (("train", range(18)), ("test", (18, 19))):
        expected = [
            (f"{name}/cifar10_{name}_{i}.aedat", label, aedat([i], [i]))
            for label, name in enumerate(CLASS_NAMES)
            for i in numbers
        ]
        assert [(r.name, r.label, r.content.read()) for r in dataset.splits[split]] == expected


def test_nine_tenths_of_a_thousand_train(tmp_path):
    write_files(tmp_path, dict.fromkeys(streams("cat", 1000), b""))
    dataset = read_cifar10dvs(tmp_path)
    assert dataset.splits["test"][0].name == "cat/cifar10_cat_900.aedat"
    assert (len(dataset.splits["train"]), len(dataset.splits["test"])) == (900, 100)
    with pytest.raises(UserError, match="found 1 classes of 10, 900 train of 9,000, 100 test of 1,000"):
        check(dataset, allow_partial=False)
    check(dataset, allow_partial=True)


def test_a_class_without_streams(tmp_path):
    write_files(tmp_path, {**streams("frog", 10), "cat/cat.zip": b""})
    with pytest.raises(UserError, match=r"cat: expected cifar10_cat_0\.aedat and so on; found cat\.zip"):
        read_cifar10dvs(tmp_path)


def test_other_files_are_named(tmp_path):
    write_files(tmp_path, {**streams("frog", 10), "frog/frame.npz": b"", "frog/readme.txt": b""})
    assert list(read_cifar10dvs(tmp_path).ignored) == ["frog/frame.npz", "frog/readme.txt"]


def test_suffixes_in_capitals(tmp_path):
    write_files(tmp_path, {name.replace(".aedat", ".AEDAT"): x for name, x in streams("frog", 10).items()})
    dataset = read_cifar10dvs(tmp_path)
    assert [r.name for r in dataset.splits["test"]] == ["frog/cifar10_frog_9.AEDAT"]
    assert not dataset.ignored and len(dataset.splits["train"]) == 9


def test_archives_that_are_not_unpacked(tmp_path):
    write_files(tmp_path, {"airplane.zip": b"PK", "bird.zip": b"PK"})
    with pytest.raises(UserError, match=r"the archives unpacked; found airplane\.zip, bird\.zip"):
        read_cifar10dvs(tmp_path)


# The test split of a file


def source_of(tmp_path):
    write_files(tmp_path / "source", {**streams("cat", 10), **streams("frog", 10)})
    return tmp_path / "source"


def list_of(tmp_path, text: str):
    write_files(tmp_path, {"theirs.txt": text.encode()})
    return tmp_path / "theirs.txt"


@pytest.mark.parametrize(
    "text",
    [
        "cat/cifar10_cat_3.aedat\nfrog/cifar10_frog_0.aedat\n",
        "# theirs\r\ncifar10_frog_0\r\n\r\ncifar10_cat_3  # the third",
        "data/frog/cifar10_frog_0.npz\nCIFAR10_CAT_3.AEDAT",
    ],
)
def test_a_file_names_the_test_split(tmp_path, text):
    """As others may have their names: in any order, under another folder, converted to another format."""
    dataset = read_cifar10dvs(source_of(tmp_path), list_of(tmp_path, text))
    test = [record.name for record in dataset.splits["test"]]
    assert test == ["cat/cifar10_cat_3.aedat", "frog/cifar10_frog_0.aedat"]
    train = [record.name for record in dataset.splits["train"]]
    assert len(train) == 18 and len({*train, *test}) == 20
    assert [record.label for record in dataset.splits["test"]] == [0, 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no stream; expected names of test streams"),
        ("# none\n", "names no stream"),
        ("cifar10_cat_3\ncifar10_cat_10\n", "line 2: 'cifar10_cat_10' is no stream of the source"),
        ("frog/cifar10_cat_3.aedat", "line 1: 'frog/cifar10_cat_3.aedat' is no stream"),
        ("cifar10_cat_3\n\ncat/cifar10_cat_3.aedat", "line 3: 'cat/cifar10_cat_3.aedat' is named twice"),
        ("\0\0\0", "line 1: '\\x00\\x00\\x00' is no stream"),
    ],
)  # fmt: skip
def test_files_that_name_no_split(tmp_path, text, told):
    file = list_of(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_cifar10dvs(source_of(tmp_path), file)
    assert str(caught.value).startswith(f"{file}") and told in str(caught.value)


def test_streams_of_one_name_in_several_classes(tmp_path):
    """The class folder tells them apart; without it the name is refused."""
    files = {f"{name}/x_{i}.aedat": aedat([i], [i]) for name in ("cat", "frog") for i in range(4)}
    write_files(tmp_path / "source", {**files, "frog/x_3.AEDAT": b""})
    for name in ("cat/x_3.aedat", "cat/x_3", "frog/x_2", "frog/x_3.aedat", "frog/x_3.AEDAT"):
        dataset = read_cifar10dvs(tmp_path / "source", list_of(tmp_path, name))
        assert [record.name.removesuffix(".aedat") for record in dataset.splits["test"]] == [
            name.removesuffix(".aedat")
        ]
    for name in ("x_3", "x_3.aedat", "frog/x_3"):
        with pytest.raises(UserError, match=f"line 1: '{name}' is the name of several streams; expected"):
            read_cifar10dvs(tmp_path / "source", list_of(tmp_path, name))


def test_the_split_is_recorded_and_can_be_given_to_others(tmp_path, capsys):
    """What one preparation writes makes the same split in another."""
    source = source_of(tmp_path)
    words = ["prepare", "cifar10dvs", "--source", source, "--allow_partial"]
    assert launch(*words, "--out", tmp_path / "ours") == 0
    ours = tmp_path / "ours/cifar10dvs/1.0.0"
    assert (ours / "test.txt").read_text() == "cat/cifar10_cat_9.aedat\nfrog/cifar10_frog_9.aedat\n"
    report = json.loads((ours / "preparation.json").read_text())
    assert report["division"] == "the last tenth of each class by file number is the test split"
    assert launch(*words, "--out", tmp_path / "again", "--test_list", ours / "test.txt") == 0
    again = tmp_path / "again/cifar10dvs/1.0.0"
    report = json.loads((again / "preparation.json").read_text())
    checksum = zlib.crc32((ours / "test.txt").read_bytes())
    assert report["division"] == f"the test split is named by test.txt, crc32 {checksum:08x}"
    shard = "cifar10dvs-test.array_record-00000-of-00001"
    assert (ours / shard).read_bytes() == (again / shard).read_bytes()
    capsys.readouterr()
    theirs = list_of(tmp_path, "cifar10_cat_0\ncifar10_frog_0")
    assert launch(*words, "--out", tmp_path / "ours", "--test_list", theirs) == 2
    assert "holds a finished data set of other files" in capsys.readouterr().err
    words[1] = "imagefolder"
    assert launch(*words, "--out", tmp_path / "x", "--test_list", theirs) == 2
    assert capsys.readouterr().err.endswith("error: --test_list is of cifar10dvs alone\n")
    words[1] = "cifar10dvs"
    assert launch(*words, "--out", tmp_path / "x", "--test_list", tmp_path / "none.txt") == 2
    assert "none.txt: no such file; expected names of test streams" in capsys.readouterr().err


def test_the_split_of_others_by_the_guide(tmp_path):
    """The code block of the guide, which sorts the names as text as SpikingJelly does."""
    source = tmp_path / "CIFAR10DVS"
    write_files(source, dict.fromkeys([name for c in CLASS_NAMES for name in streams(c, 20)], b""))
    guide = (Path(__file__).parents[3] / "docs/guides/events.md").read_text()
    code = next(block for block in guide.split("```python\n")[1:] if "spikingjelly_test.txt" in block)
    subprocess.run([sys.executable, "-c", code.partition("```")[0]], cwd=tmp_path, check=True)
    dataset = read_cifar10dvs(source, tmp_path / "spikingjelly_test.txt")
    numbers = [int(record.name[:-6].rpartition("_")[2]) for record in dataset.splits["test"]]
    # 0, 1, 10, 11, ..., 19, 2, ..., 9 as text.
    assert numbers == [8, 9] * 10
