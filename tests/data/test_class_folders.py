"""One way to find classes and their files, whoever asks."""

import contextlib
import errno
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsdt_jax import retry
from qsdt_jax.data import class_folders
from qsdt_jax.data.class_folders import find_classes, left_out, tell_once
from qsdt_jax.data.images import FORMATS, IMAGE_SUFFIXES
from qsdt_jax.data.prepare.imagefolder import read_imagefolder
from qsdt_jax.data.sources import FolderSource
from qsdt_jax.errors import UserError
from tests.data.prepare.files import encoded, write_files

IMAGE = encoded(0)
SEEN = ("ant/1.jpg", "ant/2.TIF", "ant/10.Gif", "bee/a.ppm", "bee/b.tiff", "bee/c.JFIF", "bee/d.webp")
OTHERS = ("list.csv", "ant/Thumbs.db", "ant/more/3.jpg", "bee/raw.heic", "bee/notes.jpg.txt")
HIDDEN = (
    *(".ipynb_checkpoints/1.jpg", "__MACOSX/ant/1.jpg", "@eaDir/1.jpg", ".DS_Store", "lost+found/x"),
    *("ant/._1.jpg", "ant/.ipynb_checkpoints/1.jpg", "ant/@eaDir/1.jpg", "bee/.hidden.png"),
)


@pytest.fixture(autouse=True)
def nothing_was_told():
    tell_once.cache_clear()


@pytest.fixture
def folder(tmp_path) -> Path:
    write_files(tmp_path / "train", dict.fromkeys((*SEEN, *OTHERS, *HIDDEN), IMAGE))
    (tmp_path / "train" / "bee" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "train" / "bee" / "round.jpg").symlink_to(tmp_path / "train" / "bee" / "round.jpg")
    return tmp_path


def both(root: Path) -> list[tuple[tuple[str, ...], list[tuple[str, int]]]]:
    """Class names, and the files with their labels, as training and as preparing finds them."""
    source, dataset = FolderSource(root, "train"), read_imagefolder(root)
    trained = [(str(Path(path).relative_to(root / "train")), label) for path, label in source._files]
    prepared = [(record.name, record.label) for record in dataset.splits["train"]]
    return [(source.class_names, trained), (tuple(dataset.class_names), prepared)]


def refusals(root: Path) -> list[str]:
    told = []
    for read in (lambda: FolderSource(root, "train"), lambda: read_imagefolder(root)):
        with pytest.raises(UserError) as caught:
            read()
        told.append(str(caught.value))
    return told


def test_both_readers_find_the_same(folder):
    trained, prepared = both(folder)
    assert trained == prepared
    names = ["ant/1.jpg", "ant/10.Gif", "ant/2.TIF", "bee/a.ppm", "bee/b.tiff", "bee/c.JFIF", "bee/d.webp"]
    assert trained == (("ant", "bee"), [(name, "ab".index(name[0])) for name in names])


def test_what_is_left_out_is_told_once(folder, caplog):
    for _ in range(3):
        FolderSource(folder, "train")
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == (
        "ignored: ant/more/, list.csv, ant/Thumbs.db and 4 more (7 not taken for images), "
        f".ipynb_checkpoints/, @eaDir/, __MACOSX/ and 6 more (9 hidden), in {folder}/train"
    )


def test_preparing_leaves_out_the_same(folder):
    found, dataset = find_classes(folder / "train"), read_imagefolder(folder)
    assert list(dataset.ignored) == [f"train/{name}" for name in found.others]
    assert list(dataset.hidden) == [f"train/{name}" for name in found.hidden]
    assert len(found.others) == 7 and len(found.hidden) == 9


def test_nothing_left_out_and_nothing_told(tmp_path, caplog):
    write_files(tmp_path / "train", {"ant/1.jpg": IMAGE})
    FolderSource(tmp_path, "train")
    assert not caplog.records
    assert left_out(tmp_path, "images", [], []) is None


def test_suffixes_are_those_of_the_formats_that_are_decoded():
    known = {suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS}
    assert set(IMAGE_SUFFIXES) == known - {".apng", ".pfm"}


def test_classes_are_ordered_as_text(tmp_path):
    write_files(tmp_path / "train", {f"{name}/1.jpg": IMAGE for name in ("10", "2", "1", "B", "a", "é", "z")})
    for names, _ in both(tmp_path):
        assert names == ("1", "10", "2", "B", "a", "z", "é")


def test_links_count_as_what_they_lead_to(tmp_path):
    write_files(tmp_path / "elsewhere", {"1.jpg": IMAGE})
    write_files(tmp_path / "train", {"ant/1.jpg": IMAGE})
    (tmp_path / "train" / "bee").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "ant" / "2.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    for found in both(tmp_path):
        assert found == (("ant", "bee"), [("ant/1.jpg", 0), ("ant/2.jpg", 0), ("bee/1.jpg", 1)])


@pytest.mark.parametrize("inside", [{}, {"bee/.hidden.jpg": IMAGE}, {"bee/@eaDir/1.jpg": IMAGE}])
def test_a_class_of_nothing(tmp_path, inside):
    write_files(tmp_path / "train", {"ant/1.jpg": IMAGE, **inside})
    (tmp_path / "train" / "bee").mkdir(exist_ok=True)
    told = f"{tmp_path}/train/bee: expected images of a class; found nothing"
    assert refusals(tmp_path) == [told, told]


def test_a_class_of_folders(tmp_path):
    write_files(tmp_path / "train", {"ant/1.jpg": IMAGE, "bee/more/1.jpg": IMAGE})
    told = f"{tmp_path}/train/bee: expected images of a class; found more"
    assert refusals(tmp_path) == [told, told]


def test_what_lies_beside_the_splits_is_told(tmp_path):
    write_files(tmp_path, {"train/ant/1.jpg": IMAGE, "extra/ant/1.jpg": IMAGE, "a.csv": b"", ".git/x": b""})
    dataset = read_imagefolder(tmp_path)
    assert (list(dataset.ignored), list(dataset.hidden)) == (["a.csv", "extra/"], [".git/"])


# Unicode

COMPOSED, APART = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def test_a_class_is_the_same_in_both_forms(tmp_path):
    """As one split came from a Mac, and the other did not."""
    write_files(tmp_path / "train", {f"{APART}/1.jpg": IMAGE, "z/1.jpg": IMAGE})
    write_files(tmp_path / "val", {f"{COMPOSED}/1.jpg": IMAGE, "z/1.jpg": IMAGE})
    train, val = (FolderSource(tmp_path, split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("z", COMPOSED)
    assert val[1]["label"] == 1 and np.asarray(train[1]["image"]).shape == (24, 36, 3)
    dataset = read_imagefolder(tmp_path)
    assert list(dataset.class_names) == ["z", COMPOSED]
    for records in dataset.splits.values():
        assert [(r.name, r.label) for r in records] == [("z/1.jpg", 0), (f"{COMPOSED}/1.jpg", 1)]
        assert records[1].content.read() == IMAGE


def test_two_folders_of_one_class(tmp_path):
    write_files(tmp_path / "train", {f"{name}/1.jpg": IMAGE for name in (COMPOSED, APART)})
    told = f"{tmp_path}/train holds the class {COMPOSED!r} twice, in two forms of Unicode; rename one of the"
    assert all(refusal.startswith(told) for refusal in refusals(tmp_path))


# Disks


def test_a_source_that_cannot_be_seen(tmp_path, monkeypatch):
    """As below a folder that belongs to someone else."""

    def is_dir(path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(retry, "WAITS", (0,))
    monkeypatch.setattr(Path, "is_dir", is_dir)
    first, second = refusals(tmp_path)
    assert first.startswith(f"{tmp_path}/train cannot be read: Permission denied")
    assert second.startswith(f"{tmp_path} cannot be read: Permission denied")


def test_a_folder_that_cannot_be_read(folder, monkeypatch):
    original = os.scandir

    def scandir(path):
        if str(path).endswith("bee"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path)

    monkeypatch.setattr(retry, "WAITS", (0,))
    monkeypatch.setattr(class_folders.os, "scandir", scandir)
    first, second = refusals(folder)
    assert first == second and first.startswith(f"{folder}/train/bee cannot be read: Permission denied")


def test_a_folder_that_cannot_be_read_for_a_moment(folder, monkeypatch):
    expected = find_classes(folder / "train")
    original, failures = os.scandir, [errno.ESTALE, errno.ETIMEDOUT]

    def scandir(path):
        if failures:
            raise OSError(failures.pop(), "")
        return original(path)

    monkeypatch.setattr(retry, "WAITS", (0, 0))
    monkeypatch.setattr(class_folders.os, "scandir", scandir)
    assert find_classes(folder / "train") == expected and not failures


def test_a_link_that_cannot_be_followed_for_a_moment(tmp_path, monkeypatch):
    """Else its image would be left out, and nothing be said but a name."""
    write_files(tmp_path / "elsewhere", {"1.jpg": IMAGE})
    write_files(tmp_path / "train", {"ant/1.jpg": IMAGE})
    (tmp_path / "train" / "ant" / "2.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    expected = find_classes(tmp_path / "train")
    original, failures = os.scandir, [errno.ESTALE]

    class Entry:
        def __init__(self, entry: os.DirEntry):
            self.name, self.path, self.is_dir, self._entry = entry.name, entry.path, entry.is_dir, entry

        def is_file(self) -> bool:
            if self._entry.is_symlink() and failures:
                raise OSError(failures.pop(), "")
            return self._entry.is_file()

    @contextlib.contextmanager
    def scandir(path):
        with original(path) as entries:
            yield [Entry(entry) for entry in entries]

    monkeypatch.setattr(retry, "WAITS", (0,))
    monkeypatch.setattr(class_folders.os, "scandir", scandir)
    found = find_classes(tmp_path / "train")
    assert found == expected and [file.name for file in found.files] == ["ant/1.jpg", "ant/2.jpg"]
    assert not failures
