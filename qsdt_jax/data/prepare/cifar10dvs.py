"""CIFAR10-DVS: SOURCE/airplane/cifar10_airplane_0.aedat and so on, a thousand streams of each class.

The camera lay on its side; the streams are stored upright, as the usual readers of this data set give them.

The data set has no split of its own. As usual nine tenths of each class train: here the first 900 in the
order of the numbers in the file names; 900..999 are the test split. Code that sorts the names as text puts
other streams into its first 900, for after 1 comes 10: a file that names the streams of the test split brings
that division here, or any other.
"""

import re
import zlib
from pathlib import Path, PurePosixPath

from qsdt_jax.data.class_folders import files_in, listing
from qsdt_jax.data.events.cifar10dvs import CLASS_NAMES
from qsdt_jax.data.prepare.records import CLASSES, TEST, TRAIN, DataSet, FilePart, Record
from qsdt_jax.errors import UserError
from qsdt_jax.retry import content_of

STREAM = re.compile(r".*_(\d+)\.aedat", re.IGNORECASE)


def read_cifar10dvs(source: Path, test_file: Path | None = None) -> DataSet:
    """The streams below `source`.

    Args:
      source: of the class folders.
      test_file: names the streams of the test split, one a line; everything else trains. A name is that of a
        file, with its class folder before it or without, and with its suffix or without.

    Raises:
      UserError: no class folder is there, or one without streams; a name that is not there, or twice.
    """
    splits, class_names, ignored, hidden = {TRAIN: [], TEST: []}, [], [], []
    division = "the last tenth of each class by file number is the test split"
    for name in CLASS_NAMES:
        folder = source / name
        if not folder.is_dir():
            continue
        streams, others, unseen = _streams(folder)
        if not streams:
            raise UserError(f"{folder}: expected cifar10_{name}_0.aedat and so on; found {listing(folder)}")
        ignored += [f"{name}/{other}" for other in others]
        hidden += [f"{name}/{other}" for other in unseen]
        records = [Record(f"{name}/{file}", len(class_names), part) for file, part in streams]
        class_names.append(name)
        training = len(records) * 9 // 10
        splits[TRAIN] += records[:training]
        splits[TEST] += records[training:]
    if not class_names:
        raise UserError(
            f"{source}: expected airplane/cifar10_airplane_0.aedat and so on, the archives unpacked; "
            f"found {listing(source)}"
        )
    description = "CIFAR10-DVS, the event streams; split 9:1 within each class by file number."
    if test_file is not None:
        splits, checksum = _divided([*splits[TRAIN], *splits[TEST]], test_file)
        division = f"the test split is named by {test_file.name}, crc32 {checksum:08x}"
        description = "CIFAR10-DVS, the event streams; the test split as a file names it."
    return DataSet(
        name="cifar10dvs",
        description=description,
        source=source,
        class_names=class_names,
        splits=splits,
        kind="events",
        on_its_side=True,
        expected={CLASSES: len(CLASS_NAMES), TRAIN: 9000, TEST: 1000},
        ignored=ignored,
        hidden=hidden,
        division=division,
    )


def _divided(records: list[Record], test_file: Path) -> tuple[dict[str, list[Record]], int]:
    """The records by split, and the checksum of the file that names the test split."""
    content = content_of(test_file, "names of test streams, one a line")
    known: dict[str, list[Record]] = {}
    for record in records:
        known.setdefault(_key(record.name), []).append(record)
    chosen: dict[str, Record] = {}
    for line, text in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), start=1):
        if not (name := text.partition("#")[0].strip()):
            continue
        where = f"{test_file}, line {line}: {name[:80]!r}"
        found = [r for r in known.get(_key(name), []) if "/" not in name or _same_folder(name, r)]
        if not found:
            raise UserError(f"{where} is no stream of the source; expected names as {records[0].name}")
        if len(found) > 1 and not (found := [r for r in found if r.name == name]):
            raise UserError(f"{where} is the name of several streams; expected names as {records[0].name}")
        record = found[0]
        if record.name in chosen:
            raise UserError(f"{where} is named twice")
        chosen[record.name] = record
    if not chosen:
        raise UserError(f"{test_file} names no stream; expected names of test streams, one a line")
    rest = [record for record in records if record.name not in chosen]
    return {TRAIN: rest, TEST: [record for record in records if record.name in chosen]}, zlib.crc32(content)


def _key(name: str) -> str:
    """What all names of a stream have in common, "cifar10_cat_1" of "cat/cifar10_cat_1.aedat"."""
    return PurePosixPath(name).stem.lower()


def _same_folder(name: str, record: Record) -> bool:
    return PurePosixPath(name).parent.name == PurePosixPath(record.name).parent.name


def _streams(folder: Path) -> tuple[list[tuple[str, FilePart]], list[str], list[str]]:
    """The streams of a class by the numbers in their names, and what else is there, seen and hidden."""
    files, others, hidden = files_in(folder, (".aedat",))
    numbered = [(int(match[1]), file) for file in files if (match := STREAM.fullmatch(file.name))]
    named = {file for _, file in numbered}
    others = sorted([*others, *(file.name for file in files if file not in named)])
    return [(file.name, FilePart.of(file.path)) for _, file in sorted(numbered)], others, hidden
