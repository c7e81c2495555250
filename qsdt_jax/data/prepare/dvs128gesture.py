"""DVS128-Gesture (Amir et al. 2017): the folder DvsGesture, as its archive unpacks.

A recording, user01_led.aedat, shows one person who makes all gestures in turn; user01_led_labels.csv says
from when to when each of them lasts. Every such interval is a stream. trials_to_train.txt and
trials_to_test.txt name the recordings of the two splits, which have no person in common.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from qsdt_jax.data.class_folders import listing, scan
from qsdt_jax.data.prepare.records import CLASSES, TEST, TRAIN, DataSet, FilePart, Record
from qsdt_jax.errors import UserError
from qsdt_jax.retry import content_of

CLASS_NAMES = (  # In the order of their numbers, which begin with 1.
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter clockwise",
    "left arm clockwise",
    "left arm counter clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
LISTS = {TRAIN: "trials_to_train.txt", TEST: "trials_to_test.txt"}
COLUMNS = ["class", "startTime_usec", "endTime_usec"]
SUFFIX, LABELS = ".aedat", "_labels.csv"
MOST_DIGITS = 18  # Of a time.


def read_dvs128gesture(source: Path) -> DataSet:
    """The labelled intervals of the recordings in `source`.

    Raises:
      UserError: a list, a recording or its labels are missing or named twice, a table of labels that is none,
        a class that is none, an interval that does not end after its beginning.
    """
    trials = {split: _trials(source, file) for split, file in LISTS.items()}
    if twice := sorted(set(trials[TRAIN]) & set(trials[TEST])):
        raise UserError(f"{source}: {twice[0]} is named in {LISTS[TRAIN]} and in {LISTS[TEST]}")
    used = {*LISTS.values(), *(name for names in trials.values() for name in names)}
    used |= {_labels_of(name) for name in used if name.endswith(SUFFIX)}
    entries = scan(source)
    return DataSet(
        name="dvs128gesture",
        description="DVS128-Gesture, one event stream for each labelled interval of a recording.",
        source=source,
        class_names=CLASS_NAMES,
        splits={
            split: [record for name in names for record in _records(source / name)]
            for split, names in trials.items()
        },
        kind="events",
        expected={CLASSES: len(CLASS_NAMES), TRAIN: 1176, TEST: 288},
        ignored=[entry.shown for entry in entries if not entry.is_hidden and entry.name not in used],
        hidden=[entry.shown for entry in entries if entry.is_hidden],
    )


def _labels_of(recording: str) -> str:
    return recording.removesuffix(SUFFIX) + LABELS


def _trials(source: Path, file: str) -> list[str]:
    """The recordings that a list names, all of which are there."""
    if not (source / file).is_file():
        raise UserError(
            f"{source}: expected the folder DvsGesture with {file}, userNN_LIGHT.aedat and "
            f"userNN_LIGHT_labels.csv; found {listing(source)}"
        )
    lines = content_of(source / file).decode(errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        if not name.endswith(SUFFIX) or Path(name).name != name:
            raise UserError(f"{source / file}: names {name[:60]!r}; expected recordings as user01_led.aedat")
        if names.count(name) > 1:
            raise UserError(f"{source / file}: names {name} twice")
        if not (source / name).is_file():
            raise UserError(f"{source / file}: names {name}, which is not there")
        if not (source / _labels_of(name)).is_file():
            raise UserError(f"{source / name}: has no labels; expected {_labels_of(name)} beside it")
    return names


def _records(recording: Path) -> Iterator[Record]:
    """A record for each line of the labels of a recording."""
    file = recording.with_name(_labels_of(recording.name))
    text = content_of(file).decode(errors="replace")
    rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
    if not rows or [cell.strip() for cell in rows[0]] != COLUMNS:
        found = ",".join(rows[0])[:60] if rows else "nothing"
        raise UserError(f"{file}: expected a first line {','.join(COLUMNS)}; found {found}")
    content = FilePart.of(str(recording))
    number = 0
    for line, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != len(COLUMNS) or not all(c.isdecimal() and len(c) <= MOST_DIGITS for c in cells):
            raise UserError(
                f"{file}, line {line}: expected a class and two times in microseconds; "
                f"found {','.join(row)[:60]!r}"
            )
        label, start, end = map(int, cells)
        if not 1 <= label <= len(CLASS_NAMES):
            raise UserError(f"{file}, line {line}: has the class {label}; expected 1..{len(CLASS_NAMES)}")
        if end <= start:
            raise UserError(f"{file}, line {line}: ends at {end}, not after its beginning at {start}")
        number += 1
        yield Record(f"{recording.stem}/{number:02d}", label - 1, content, interval=(start, end))
    if not number:
        raise UserError(f"{file}: has no labels")
