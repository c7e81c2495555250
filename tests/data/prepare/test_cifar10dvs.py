"""CIFAR10-DVS as it is unpacked."""

import pytest

from qsdt_jax.data.prepare.cifar10dvs import CLASS_NAMES, read_cifar10dvs
from qsdt_jax.data.prepare.records import check
from qsdt_jax.errors import UserError
from tests.data.prepare.files import aedat, write_files


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
