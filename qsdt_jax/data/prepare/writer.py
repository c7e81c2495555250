"""Writes the tfds directory OUT/NAME/1.0.0 of array_record shards; killed, it goes on where it stood.

A shard is written under another name and gets its own when it is whole, with a note of what it holds; a
restart keeps such shards. What is in a shard depends on the data set and the number of shards alone, so the
files of a preparation that was killed are those of one that was not, byte for byte. Only a finished directory
has the file dataset_info.json, which comes last. Beside it, preparation.json counts the records of each class
and names those that are damaged. Of images with annotations it counts those in which a class has a pixel, and
those in which none has; of images with objects those in which a category has one; image_sizes.json has the
size of each. Where a data set has no splits of its own it tells how they were made, and test.txt names the
records of the test split. Records that the source does not give are not damaged: the other shards are
written, and nothing is finished before the same command has read them.
"""

import collections
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qsdt_jax.data.dense.annotations import labelled_counts
from qsdt_jax.data.prepare.claim import REPORT_FILE, claimed, fields_of
from qsdt_jax.data.prepare.examples import LostRecord, example_of
from qsdt_jax.data.prepare.metadata import (
    CATEGORIES_FILE,
    INFO_FILE,
    SIZES_FILE,
    UNFINISHED,
    VERSION,
    features_of,
    serializer,
    write_metadata,
)
from qsdt_jax.data.prepare.plan import Plan, Shard, make_plan
from qsdt_jax.data.prepare.records import TEST, DataSet, Record
from qsdt_jax.data.prepare.shard_file import ArrayRecordFile, in_order, records_in
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.files import put_in_place, write_atomically
from qsdt_jax.progress import Progress

OTHERS = "other files or of another number of shards"
SIZED = ("segmentation", "detection")  # Kinds of which sizes are noted.
TEST_FILE = "test.txt"  # Of a data set without splits of its own, the records that are not trained on.
LOST_SOURCE = 100  # So many records that cannot be read tell of a source that is gone or of another kind.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A finished directory.

    Attributes:
      directory: OUT/NAME/1.0.0.
      class_names: in the order of the labels.
      records, shards: number of each by split.
      left_out: why, for each record that is damaged, by split; a reason begins with the record's name.
    """

    directory: Path
    class_names: Sequence[str]
    records: Mapping[str, int]
    shards: Mapping[str, int]
    left_out: Mapping[str, Sequence[str]]


def prepare(dataset: DataSet, out: Path, *, shards: int | None = None) -> Prepared:
    """Writes the data set below `out`, or finishes what an earlier call began; tells its progress on stderr.

    Args:
      dataset: as it was found.
      out: tfds data directory, which may hold other data sets.
      shards: of the split "train"; see `make_plan`.

    Raises:
      UserError: the place holds something else or a data set that was damaged, cannot be written, is in use,
        or has too little space; the source is gone, or does not give all records.
    """
    directory = out / dataset.name / VERSION
    plan = make_plan(dataset, shards)
    try:
        if not (directory / INFO_FILE).exists():
            with claimed(directory, plan.fingerprint, OTHERS):
                if not (directory / INFO_FILE).exists():  # Another process may just have finished.
                    _Writer(dataset, directory, plan).write()
        finished = _finished(directory, plan, dataset)
        shutil.rmtree(directory / UNFINISHED, ignore_errors=True)
        return finished
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror or error}") from None


def _finished(directory: Path, plan: Plan, dataset: DataSet) -> Prepared:
    file = directory / REPORT_FILE
    report = fields_of(file) if file.exists() else {}
    if report.get("fingerprint") != plan.fingerprint:
        raise UserError(
            f"{directory} holds a finished data set of {OTHERS}; give another directory, or remove it"
        )
    splits = _splits(report)
    if splits is None:
        raise UserError(f"{file} is damaged; remove {directory} and prepare it again")
    files = [directory / _file_name(dataset, shard) for shard in plan.shards]
    damaged = [file for file in files if records_in(file) is None]
    if damaged:
        raise UserError(
            f"{damaged[0]} of a finished data set is missing or damaged; "
            f"remove {directory} and prepare it again"
        )
    return Prepared(
        directory=directory,
        class_names=dataset.class_names,
        records={split: content["records"] for split, content in splits.items()},
        shards={split: content["shards"] for split, content in splits.items()},
        left_out={split: content["left_out"] for split, content in splits.items()},
    )


def _splits(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a report says of each split; None where that is not what was written."""
    splits = report.get("splits")
    if not isinstance(splits, dict):
        return None
    for content in splits.values():
        if not (
            isinstance(content, dict)
            and all(type(content.get(name)) is int and content[name] >= 0 for name in ("records", "shards"))
            and isinstance(content.get("left_out"), list)
        ):
            return None
    return splits


class _Writer:
    """One preparation, in a directory that it holds."""

    def __init__(self, dataset: DataSet, directory: Path, plan: Plan):
        self.dataset, self.directory, self.plan = dataset, directory, plan
        self.features = features_of(dataset)
        self.serialize = serializer(self.features)
        self.unfinished = directory / UNFINISHED
        self.lost: list[LostRecord] = []

    def write(self) -> None:
        """Writes the shards that are missing, and then what makes a data set of them."""
        missing = [shard for shard in self.plan.shards if not self._is_done(shard)]
        self._require_space(sum(shard.size for shard in missing))
        done = self.plan.records - sum(len(shard.records) for shard in missing)
        progress = Progress(self.plan.records, done, 1, step="record", images="records")
        if done:
            progress.say(f"{self.directory}: {done:,} of {self.plan.records:,} records were done before")
        try:
            for shard in missing:
                done = self._write_shard(shard, done, progress)
        finally:
            progress.close()
        if self.lost:
            raise UserError(
                f"{len(self.lost)} of {self.plan.records:,} records cannot be read, so {self.directory} is "
                f"not finished; the same command tries them again. The first: {self.lost[0]}"
            )
        self._finish()

    def _require_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"{self.directory} cannot be written: expected about {needed / 1e6:,.0f} MB of free space, "
                f"found {free / 1e6:,.0f} MB"
            )

    def _file(self, shard: Shard) -> Path:
        return self.directory / _file_name(self.dataset, shard)

    def _is_done(self, shard: Shard) -> bool:
        # Earlier versions wrote shards of which the source had not given all.
        note = self._note(shard)
        return note is not None and not note.get("lost")

    def _note(self, shard: Shard) -> dict[str, Any] | None:
        """What is known of a shard, or None where it is not written."""
        note, file = self.unfinished / f"{shard.key}.json", self._file(shard)
        if not (note.exists() and file.exists()):
            return None
        content = fields_of(note)
        return content if content.get("file_size") == file.stat().st_size else None

    def _write_shard(self, shard: Shard, done: int, progress: Progress) -> int:
        """Writes a shard and the note of it, unless a record is lost; returns the number that are done."""
        temporary = self.unfinished / f"{shard.key}.tmp"
        left_out: list[CorruptRecord] = []
        lost_before = len(self.lost)
        labels, number, size = collections.Counter(), 0, 0
        sizes, unlabelled = [], 0
        with ArrayRecordFile(temporary) as file:
            for record, example in in_order(self._serialized, shard.records):
                if isinstance(example, LostRecord):
                    self._lose(example, progress)
                elif isinstance(example, CorruptRecord):
                    left_out.append(example)
                    progress.say(f"left out of the {shard.split} split: {example}")
                else:
                    file.write(example.content)
                    number += 1
                    size += len(example.content)
                    labels.update(example.classes)
                    sizes.append(example.image_size)
                    if not example.classes and self.dataset.kind == "segmentation":
                        unlabelled += 1
                        progress.say(f"no pixel of {record.name} in the {shard.split} split is labelled")
                done += 1
                progress.update(done, f"{shard.split} shard {shard.number + 1} of {shard.of}")
        if len(self.lost) > lost_before:
            temporary.unlink()
            return done
        if len(left_out) == len(shard.records) >= LOST_SOURCE:
            raise UserError(
                f"none of {len(left_out)} records of {self.dataset.source} can be used. "
                f"The first: {left_out[0]}"
            )
        note = {
            "file_size": temporary.stat().st_size,
            "record_bytes": size,
            "records": number,
            "records_of_class": [labels[i] for i in range(len(self.dataset.class_names))],
            "left_out": [str(error) for error in left_out],
        }
        if self.dataset.kind == "segmentation":
            note["unlabelled"] = unlabelled
        if self.dataset.kind in SIZED:
            note["image_sizes"] = sizes
        write_atomically(self.unfinished / f"{shard.key}.json", json.dumps(note) + "\n")
        put_in_place(temporary, self._file(shard))
        return done

    def _lose(self, record: LostRecord, progress: Progress) -> None:
        self.lost.append(record)
        progress.say(f"not read: {record}")
        if len(self.lost) >= LOST_SOURCE:
            raise UserError(
                f"{len(self.lost)} records cannot be read; is {self.dataset.source} still there? "
                f"The last: {record}"
            )

    def _serialized(self, record: Record) -> tuple[Record, "_Example | CorruptRecord | LostRecord"]:
        try:
            example = example_of(record, self.dataset)
            return record, _Example(self.serialize(example), *_seen(record, example))
        except (CorruptRecord, LostRecord) as error:
            return record, error

    def _finish(self) -> None:
        """Writes the metadata; the directory becomes a data set with the last file."""
        notes = {shard.key: self._note(shard) for shard in self.plan.shards}
        splits = {
            split: [notes[shard.key] or {} for shard in self.plan.shards if shard.split == split]
            for split in self.dataset.splits
        }
        for split, of_split in splits.items():
            if not sum(note["records"] for note in of_split):
                raise UserError(f"{self.dataset.source}: no record of the {split} split can be read")
        report = {
            "data_set": f"{self.dataset.name}:{VERSION}",
            "fingerprint": self.plan.fingerprint,
            "splits": {split: _summed(of_split) for split, of_split in splits.items()},
            "ignored": list(self.dataset.ignored),
        }
        if self.dataset.division is not None:
            report["division"] = self.dataset.division
            names = "".join(f"{record.name}\n" for record in self.dataset.splits[TEST])
            write_atomically(self.directory / TEST_FILE, names)
        write_atomically(self.directory / REPORT_FILE, json.dumps(report, indent=1) + "\n")
        if self.dataset.kind == "detection":
            numbers = [category.id for category in self.dataset.categories]
            write_atomically(self.directory / CATEGORIES_FILE, json.dumps(numbers) + "\n")
        if self.dataset.kind in SIZED:
            sizes = {
                split: [size for note in of_split for size in note["image_sizes"]]
                for split, of_split in splits.items()
            }
            write_atomically(self.directory / SIZES_FILE, json.dumps(sizes) + "\n")
        metadata = self.unfinished / "metadata"
        metadata.mkdir(exist_ok=True)
        write_metadata(self.dataset, self.features, splits, metadata)
        for file in sorted(metadata.iterdir(), key=lambda file: file.name == INFO_FILE):
            put_in_place(file, self.directory / file.name)


class _Example(NamedTuple):
    """A record as it is stored, its classes, and (height, width) of an image of `SIZED`."""

    content: bytes
    classes: Sequence[int]
    image_size: Sequence[int]


def _seen(record: Record, example: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]]:
    """The classes of an example, and the size of its image where that is noted."""
    if record.listed is not None:
        return sorted({one.category for one in record.listed.usable}), record.listed.size
    if "annotation" not in example:
        return [example["label"]], ()
    annotation = example["annotation"]
    return np.flatnonzero(labelled_counts(annotation)).tolist(), annotation.shape


def _file_name(dataset: DataSet, shard: Shard) -> str:
    return f"{dataset.name}-{shard.split}.array_record-{shard.number:05d}-of-{shard.of:05d}"


def _summed(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the shards of a split hold together."""
    summed = {
        "records": sum(note["records"] for note in notes),
        "shards": len(notes),
        "records_of_class": [sum(n) for n in zip(*(note["records_of_class"] for note in notes), strict=True)],
        "left_out": [reason for note in notes for reason in note["left_out"]],
    }
    if "unlabelled" in notes[0]:
        summed["unlabelled"] = sum(note["unlabelled"] for note in notes)
    return summed
