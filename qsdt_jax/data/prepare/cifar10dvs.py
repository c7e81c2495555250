"""CIFAR10-DVS: SOURCE/airplane/cifar10_airplane_0.aedat and so on, a thousand streams of each class.

The camera lay on its side; the streams are stored upright, as the usual readers of this data set give them.

The data set has no split of its own. As usual nine tenths of each class train: here the first 900 in the
order of the numbers in the file names; 900..999 are the test split. (Code that sorts the names as text puts
other streams into its first 900, for after 1 comes 10; results compare only in their size of the split.)
"""

import re
from pathlib import Path

from qsdt_jax.data.class_folders import files_in, listing
from qsdt_jax.data.prepare.records import CLASSES, TEST, TRAIN, DataSet, FilePart, Record
from qsdt_jax.errors import UserError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STREAM = re.compile(r".*_(\d+)\.aedat", re.IGNORECASE)
OF_THIS_SET = re.compile(rf"cifar10_({'|'.join(CLASS_NAMES)})_\d+\.aedat", re.IGNORECASE)


def is_cifar10dvs(file_name: str) -> bool:
    """Whether a file is called as the streams of this data set are."""
    return OF_THIS_SET.fullmatch(file_name) is not None


def read_cifar10dvs(source: Path) -> DataSet:
    """The streams below `source`.

    Raises:
      UserError: no class folder is there, or one without streams.
    """
    splits, class_names, ignored, hidden = {TRAIN: [], TEST: []}, [], [], []
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
        hidden=hidden,
    )


def _streams(folder: Path) -> tuple[list[tuple[str, FilePart]], list[str], list[str]]:
    """The streams of a class by the numbers in their names, and what else is there, seen and hidden."""
    files, others, hidden = files_in(folder, (".aedat",))
    numbered = [(int(match[1]), file) for file in files if (match := STREAM.fullmatch(file.name))]
    named = {file for _, file in numbered}
    others = sorted([*others, *(file.name for file in files if file not in named)])
    return [(file.name, FilePart.of(file.path)) for _, file in sorted(numbered)], others, hidden
