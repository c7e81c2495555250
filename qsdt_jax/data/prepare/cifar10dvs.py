"""CIFAR10-DVS: SOURCE/airplane/cifar10_airplane_0.aedat and so on, a thousand streams of each class.

The camera lay on its side; the streams are stored upright, as the usual readers of this data set give them.

The data set has no split of its own. As usual nine tenths of each class train: here the first 900 in the
order of the numbers in the file names; 900..999 are the test split. (Code that sorts the names as text puts
other streams into its first 900, for after 1 comes 10; results compare only in their size of the split.)
"""

import re
from pathlib import Path

from qsdt_jax.data.prepare.folders import listing, scan
from qsdt_jax.data.prepare.records import CLASSES, TEST, TRAIN, DataSet, FilePart, Record
from qsdt_jax.errors import UserError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STREAM = re.compile(r".*_(\d+)\.aedat")


def read_cifar10dvs(source: Path) -> DataSet:
    """The streams below `source`.

    Raises:
      UserError: no class folder is there, or one without streams.
    """
    splits, class_names, ignored = {TRAIN: [], TEST: []}, [], []
    for name in CLASS_NAMES:
        folder = source / name
        if not folder.is_dir():
            continue
        streams, others = _streams(folder)
        if not streams:
            raise UserError(f"{folder}: expected cifar10_{name}_0.aedat and so on; found {listing(folder)}")
        ignored += [f"{name}/{other}" for other in others]
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
    return DataSet(
        name="cifar10dvs",
        description="CIFAR10-DVS, the event streams; split 9:1 within each class by file number.",
        source=source,
        class_names=class_names,
        splits=splits,
        kind="events",
        on_its_side=True,
        expected={CLASSES: len(CLASS_NAMES), TRAIN: 9000, TEST: 1000},
        ignored=ignored,
    )


def _streams(folder: Path) -> tuple[list[tuple[str, FilePart]], list[str]]:
    """The streams of a class by the numbers in their names, and what else is there."""
    numbered, others = [], []
    for entry in scan(folder):
        match = STREAM.fullmatch(entry.name)
        if match and entry.is_file():
            numbered.append((int(match[1]), entry.name, FilePart(entry.path, entry.stat().st_size)))
        else:
            others.append(entry.name)
    return [(name, part) for _, name, part in sorted(numbered, key=lambda x: x[:2])], others
