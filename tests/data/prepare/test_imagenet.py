"""Every layout in which ImageNet lies about gives the same records."""

import errno
import io
import os
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from qsdt_jax import retry
from qsdt_jax.data.prepare import imagenet
from qsdt_jax.data.prepare.archives import gzip_members, members, nested_members
from qsdt_jax.data.prepare.imagenet import read_imagenet
from qsdt_jax.data.prepare.records import DataSet, check
from qsdt_jax.errors import UserError
from tests.data.prepare.files import (
    TRAIN,
    TRUTH,
    VALIDATION,
    WNIDS,
    encoded,
    kit,
    tar_of,
    train_folder,
    train_tar,
    write_files,
)

FLAT = {f"val/{name}": content for name, content in VALIDATION.items()}
CLASSES = {
    f"val/{wnid}/{name}": content for wnid, (name, content) in zip(TRUTH, VALIDATION.items(), strict=True)
}
TRAIN_TAR = {"ILSVRC2012_img_train.tar": train_tar()}
VALIDATION_TAR = {"ILSVRC2012_img_val.tar": tar_of(VALIDATION)}
PACKED_KIT = {"ILSVRC2012_devkit_t12.tar.gz": tar_of(kit(), "w:gz")}


def text(line: Callable[[str, str], str], header: str = "") -> bytes:
    """A file of labels with a line for each validation image, not in their order."""
    pairs = list(zip(VALIDATION, TRUTH, strict=True))
    return (header + "".join(line(name, wnid) + "\n" for name, wnid in reversed(pairs))).encode()


CSV = {
    "LOC_val_solution.csv": text(
        lambda name, wnid: f"{name.removesuffix('.JPEG')},{wnid} 1 2 30 40 {wnid} 5 6 70 80",
        "ImageId,PredictionString\n",
    )
}
MAP = {"val_map.txt": text(lambda name, wnid: f"{name} {wnid}")}
IN_ORDER = {"imagenet_2012_validation_synset_labels.txt": "".join(f"{w}\n" for w in TRUTH).encode()}
KAGGLE = {f"ILSVRC/Data/CLS-LOC/{name}": content for name, content in {**train_folder(), **FLAT}.items()}

LAYOUTS = {
    "tars, packed kit": {**TRAIN_TAR, **VALIDATION_TAR, **PACKED_KIT},
    "tars, unpacked kit": {**TRAIN_TAR, **VALIDATION_TAR, **kit()},
    "folders": {**train_folder(), **CLASSES},
    "folders, flat val, packed kit": {**train_folder(), **FLAT, **PACKED_KIT},
    "folders, flat val, map": {**train_folder(), **FLAT, **MAP},
    "folders, val tar, labels in order": {**train_folder(), **VALIDATION_TAR, **IN_ORDER},
    "Kaggle": {**KAGGLE, **CSV},
}


def refusal(folder: Path, *, allow_partial: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        read_imagenet(folder, allow_partial=allow_partial)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(dataset: DataSet, split: str) -> dict[str, tuple[int, bytes]]:
    """Label and bytes by file name."""
    return {r.name.split("/")[-1]: (r.label, r.content.read()) for r in dataset.splits[split]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(tmp_path, layout):
    write_files(tmp_path, LAYOUTS[layout])
    dataset = read_imagenet(tmp_path)
    assert tuple(dataset.class_names) == WNIDS  # Sorted, as everywhere.
    assert contents(dataset, "train") == {
        name: (label, content) for label, wnid in enumerate(WNIDS) for name, content in TRAIN[wnid].items()
    }
    labels = {name: WNIDS.index(wnid) for name, wnid in zip(VALIDATION, TRUTH, strict=True)}
    assert contents(dataset, "validation") == {n: (labels[n], x) for n, x in VALIDATION.items()}
    assert {r.name for r in dataset.splits["train"]} == {f"{w}/{n}" for w in WNIDS for n in TRAIN[w]}
    assert all(r.content.size == len(r.content.read()) for r in dataset.splits["train"])
    assert not dataset.ignored


def test_the_whole_is_asked_for(tmp_path, monkeypatch):
    write_files(tmp_path, LAYOUTS["folders"])
    dataset = read_imagenet(tmp_path)
    with pytest.raises(UserError) as error:
        check(dataset, allow_partial=False)
    assert "found 3 classes of 1,000, 12 train of 1,281,167, 5 validation of 50,000" in str(error.value)
    assert "allow_partial=True" in str(error.value)
    check(dataset, allow_partial=True)
    monkeypatch.setattr(imagenet, "EXPECTED", {"classes": 3, "train": 12, "validation": 5})
    check(read_imagenet(tmp_path), allow_partial=False)


def test_part_of_the_classes(tmp_path):
    """Validation images of other classes are left aside, where a part is allowed."""
    part = {name: content for name, content in train_folder().items() if WNIDS[1] not in name}
    write_files(tmp_path, {**part, **FLAT, **MAP})
    dataset = read_imagenet(tmp_path, allow_partial=True)
    assert tuple(dataset.class_names) == (WNIDS[0], WNIDS[2])
    assert [r.label for r in dataset.splits["validation"]] == [1, 0, 0, 1]
    assert list(dataset.ignored) == ["ILSVRC2012_val_00000004.JPEG"]
    assert f"class {WNIDS[1]} of ILSVRC2012_val_00000004.JPEG" in refusal(tmp_path, allow_partial=False)


def test_training_images_alone(tmp_path):
    write_files(tmp_path, train_folder())
    assert list(read_imagenet(tmp_path, allow_partial=True).splits) == ["train"]
    assert "expected ILSVRC2012_img_val.tar, val/" in refusal(tmp_path, allow_partial=False)


def test_other_files_are_named(tmp_path):
    write_files(tmp_path, {**LAYOUTS["folders"], f"train/{WNIDS[0]}/notes.txt": b"", "val/.DS_Store": b""})
    assert list(read_imagenet(tmp_path).ignored) == [f"{WNIDS[0]}/notes.txt"]


# Mistakes


def test_nothing_there(tmp_path):
    write_files(tmp_path, {"train.zip": b"", "readme": b""})
    message = refusal(tmp_path)
    assert "expected ILSVRC2012_img_train.tar or train/n01440764/NAME.JPEG" in message
    assert message.endswith("found readme, train.zip")


def test_tars_of_classes_that_are_not_unpacked(tmp_path):
    write_files(tmp_path, {"train/n01440764.tar": b"", **CLASSES})
    assert refusal(tmp_path).endswith("train: expected n01440764/NAME.JPEG; found n01440764.tar")


def test_class_that_is_no_wordnet_number(tmp_path):
    write_files(tmp_path, {**LAYOUTS["folders"], "train/goldfish/1.JPEG": encoded(1)})
    assert "'goldfish' is no WordNet number" in refusal(tmp_path)


def test_no_labels(tmp_path):
    write_files(tmp_path, {**train_folder(), **FLAT})
    assert "no labels of the validation images; expected ILSVRC2012_devkit_t12.tar.gz" in refusal(tmp_path)


def test_image_without_label(tmp_path):
    more = {"val/ILSVRC2012_val_00000009.JPEG": encoded(1)}
    write_files(tmp_path, {**train_folder(), **FLAT, **IN_ORDER, **more})
    assert refusal(tmp_path).endswith("labels.txt has no label for ILSVRC2012_val_00000009.JPEG")


def test_labels_that_are_numbers(tmp_path):
    write_files(tmp_path, {**train_folder(), **FLAT, "val.txt": b"ILSVRC2012_val_00000001.JPEG 65\n"})
    assert "val.txt, line 1: expected NAME n01440764" in refusal(tmp_path)


def test_damaged_kit(tmp_path):
    damaged = {name: content[: len(content) // 2] for name, content in PACKED_KIT.items()}
    write_files(tmp_path, {**train_folder(), **FLAT, **damaged})
    assert "damaged or cut off" in refusal(tmp_path)


def test_kit_of_another_year(tmp_path):
    other = {"ILSVRC2012_devkit_t12.tar.gz": tar_of({"ILSVRC2010_devkit/data/meta.mat": b""}, "w:gz")}
    write_files(tmp_path, {**train_folder(), **FLAT, **other})
    assert "cannot be read as the development kit of ILSVRC 2012" in refusal(tmp_path)


@pytest.mark.parametrize("size", [0, 700, 0.5, 0.98])
def test_tar_that_is_cut_off(tmp_path, size):
    tar = TRAIN_TAR["ILSVRC2012_img_train.tar"]
    keep = size if isinstance(size, int) else int(size * len(tar.rstrip(b"\0")))
    write_files(tmp_path, {"ILSVRC2012_img_train.tar": tar[:keep], **CLASSES})
    assert "damaged or cut off" in refusal(tmp_path)


@pytest.mark.parametrize("damage", ["cut off", "header"])
def test_tar_that_breaks_between_two_members(tmp_path, damage):
    """Where tarfile sees the end of a smaller archive."""
    tar = VALIDATION_TAR["ILSVRC2012_img_val.tar"]
    write_files(tmp_path, VALIDATION_TAR)
    start = members(tmp_path / "ILSVRC2012_img_val.tar")[0][3][1].offset - tarfile.BLOCKSIZE
    spoilt = tar[:start] if damage == "cut off" else tar[:start] + b"\xff" * 512 + tar[start + 512 :]
    write_files(tmp_path, {**train_folder(), "ILSVRC2012_img_val.tar": spoilt, **MAP})
    assert refusal(tmp_path).endswith(
        "img_val.tar is no uncompressed tar, or damaged or cut off (no end of the archive)"
    )


def test_tar_of_a_class_that_breaks_between_two_members(tmp_path):
    whole = {wnid: tar_of(files) for wnid, files in TRAIN.items()}
    whole[WNIDS[1]] = whole[WNIDS[1]].rstrip(b"\0")
    size = -(-len(whole[WNIDS[1]]) // 512) * 512  # The last image up to its padding, and no end.
    whole[WNIDS[1]] = whole[WNIDS[1]].ljust(size, b"\0")
    outer = tar_of({f"{wnid}.tar": content for wnid, content in whole.items()})
    write_files(tmp_path, {"ILSVRC2012_img_train.tar": outer, **CLASSES})
    assert "damaged or cut off (n02087122.tar: no end of the archive)" in refusal(tmp_path)


def test_tar_that_is_compressed(tmp_path):
    write_files(tmp_path, {**train_folder(), "ILSVRC2012_img_val.tar": tar_of(VALIDATION, "w:gz"), **MAP})
    assert "no uncompressed tar" in refusal(tmp_path)


def test_tar_of_images(tmp_path):
    """The validation tar under the name of the other."""
    write_files(tmp_path, {"ILSVRC2012_img_train.tar": tar_of(VALIDATION)})
    assert "no tar of tars" in refusal(tmp_path)


def test_members_are_where_tarfile_finds_them(tmp_path):
    write_files(tmp_path, VALIDATION_TAR)
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar") as tar:
        expected = {m.name: tar.extractfile(m).read() for m in tar}  # pyright: ignore[reportOptionalMemberAccess]
    found = {name: part.read() for name, part in members(tmp_path / "ILSVRC2012_img_val.tar")[0]}
    assert found == expected == VALIDATION


# Names of members


def as_archived(files: dict[str, bytes], mode: str = "w") -> bytes:
    """As `tar -C FOLDER .` writes it."""
    return tar_of({f"./{name}": content for name, content in files.items()}, mode)


def test_members_that_begin_with_the_folder_they_were_in(tmp_path):
    """And what a Mac puts beside them."""
    extra = {"._x.JPEG": b"Mac OS X"}
    inner = {f"{wnid}.tar": as_archived({**extra, **files}) for wnid, files in TRAIN.items()}
    outer = as_archived({**inner, "._a.tar": b""})
    validation = as_archived({**VALIDATION, **extra})
    packed = as_archived(kit(), "w:gz")
    write_files(
        tmp_path,
        {
            "ILSVRC2012_img_train.tar": outer,
            "ILSVRC2012_img_val.tar": validation,
            "ILSVRC2012_devkit_t12.tar.gz": packed,
        },
    )
    write_files(tmp_path / "plain", LAYOUTS["tars, packed kit"])
    found, expected = read_imagenet(tmp_path), read_imagenet(tmp_path / "plain")
    assert found.class_names == expected.class_names
    for split in expected.splits:
        assert contents(found, split) == contents(expected, split)
        assert [r.name for r in found.splits[split]] == [r.name for r in expected.splits[split]]
    assert sorted(found.hidden) == ["._a.tar", "._x.JPEG", *(f"{wnid}.tar/._x.JPEG" for wnid in WNIDS)]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.JPEG", "a/../../x.JPEG", "./../x.JPEG"])
def test_members_that_lie_outside(tmp_path, name):
    write_files(tmp_path, {**train_folder(), "ILSVRC2012_img_val.tar": tar_of({name: b""}), **MAP})
    told = f"ILSVRC2012_img_val.tar has a member named {name!r}; expected names within the archive"
    assert refusal(tmp_path).endswith(told)


def test_tars_of_classes_in_a_folder_or_in_capitals(tmp_path):
    tars = {"train/n01440764.TAR": tar_of(TRAIN[WNIDS[0]]), "n02087122.tar": tar_of(TRAIN[WNIDS[1]])}
    write_files(tmp_path, {"ILSVRC2012_img_train.tar": tar_of(tars)})
    dataset = read_imagenet(tmp_path, allow_partial=True)
    assert list(dataset.class_names) == list(WNIDS[:2])
    assert dataset.splits["train"][0].name == "n01440764/n01440764_0.JPEG"


def test_a_member_that_is_no_tar_is_named(tmp_path):
    tars = {"n01440764.tar": tar_of(TRAIN[WNIDS[0]]), "README.txt": b"of ImageNet"}
    write_files(tmp_path, {"ILSVRC2012_img_train.tar": tar_of(tars)})
    with pytest.raises(UserError, match=r"is no tar of tars, or damaged or cut off \(README.txt: "):
        read_imagenet(tmp_path, allow_partial=True)


def tar_of_twos(kind: bytes) -> bytes:
    """The validation images, of which the third comes again with other content, or as a link to the first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in [*VALIDATION.items(), (sorted(VALIDATION)[2], b"later")]:
            info = tarfile.TarInfo(name)
            if content == b"later" and kind != tarfile.REGTYPE:
                info.type, info.linkname, content = kind, min(VALIDATION), b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_member_that_is_there_twice_counts_as_its_last(tmp_path):
    """As an image that `tar -r` has put in anew, and as tar unpacks it."""
    write_files(tmp_path, {**train_folder(), "ILSVRC2012_img_val.tar": tar_of_twos(tarfile.REGTYPE), **MAP})
    records = read_imagenet(tmp_path, allow_partial=True).splits["validation"]
    expected = {**VALIDATION, sorted(VALIDATION)[2]: b"later"}
    assert {r.name: r.content.read() for r in records} == expected and len(records) == len(expected)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_is_no_image(tmp_path, kind):
    write_files(tmp_path, {**train_folder(), "ILSVRC2012_img_val.tar": tar_of_twos(kind), **MAP})
    assert refusal(tmp_path).endswith(f"has the link {sorted(VALIDATION)[2]!r}; expected files and folders")


def test_an_archive_that_the_disk_does_not_give_is_not_called_damaged(tmp_path, monkeypatch):
    write_files(tmp_path, LAYOUTS["tars, packed kit"])
    monkeypatch.setattr(retry, "WAITS", (0, 0))
    tries = []

    def failing(*args, **options):
        tries.append(args)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(tarfile, "open", failing)
    assert "ILSVRC2012_img_train.tar cannot be read: Stale file handle; tried 3 times" in refusal(tmp_path)
    assert len(tries) == 3


def test_an_archive_that_is_gone_is_not_called_damaged(tmp_path):
    """A link, as `git annex` leaves it."""
    for read in (members, nested_members, gzip_members):
        with pytest.raises(UserError, match=f"^{tmp_path}/a.tar cannot be read: No such file or directory$"):
            read(tmp_path / "a.tar")


def test_a_file_of_labels_that_begins_with_a_mark(tmp_path):
    """As Windows' editor writes UTF-8."""
    marked = {name: b"\xef\xbb\xbf" + content for name, content in MAP.items()}
    write_files(tmp_path, {**train_folder(), **FLAT, **marked})
    assert len(read_imagenet(tmp_path).splits["validation"]) == len(VALIDATION)


def test_labels_are_found_whatever_the_form_of_a_name(tmp_path):
    images = {unicodedata.normalize("NFD", f"é{i}.JPEG"): encoded(i) for i in range(2)}
    lines = "".join(unicodedata.normalize("NFC", f"é{i}.JPEG {WNIDS[i]}\n") for i in range(2))
    write_files(tmp_path, {**train_folder(), "val_map.txt": lines.encode()})
    write_files(tmp_path / "val", images)
    assert [r.label for r in read_imagenet(tmp_path).splits["validation"]] == [0, 1]
