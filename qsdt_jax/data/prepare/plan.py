"""Which record goes into which shard: a function of the data set and the number of shards alone.

Records are put in the order of a hash of their names, as tfds does, so that a shard is a sample of the whole
split, and a reader that only shuffles a little still sees all classes. Each shard is one stretch of it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from qsdt_jax.data.dense.instances import as_dataset
from qsdt_jax.data.prepare.records import TRAIN, DataSet, Record

SHARD_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a split; `number` counts from 0."""

    split: str
    number: int
    of: int
    records: Sequence[Record]

    @property
    def key(self) -> str:
        """A name for files, "train-00003"."""
        return f"{self.split}-{self.number:05d}"

    @property
    def size(self) -> int:
        """Bytes of its contents, about."""
        return sum(record.size for record in self.records)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All shards in the order in which they are written, and a fingerprint of what they will hold."""

    shards: Sequence[Shard]
    fingerprint: str

    @property
    def records(self) -> int:
        """Number of records of all shards."""
        return sum(len(shard.records) for shard in self.shards)


def make_plan(dataset: DataSet, shards: int | None = None) -> Plan:
    """Cuts each split into shards.

    Args:
      dataset: what to store.
      shards: of the split "train", the others in proportion to their bytes; without one, so many that a shard
        has about 256 MB.
    """
    sizes = {split: sum(r.size for r in records) for split, records in dataset.splits.items()}
    target = SHARD_BYTES if shards is None else max(1, sizes[TRAIN]) / shards
    parts, digest = [], hashlib.sha256()
    identity = (dataset.name, dataset.kind, dataset.sensor_size, list(dataset.class_names))
    digest.update(repr(identity).encode())
    if dataset.numbering is not None:
        digest.update(repr(dataset.numbering).encode())
    if dataset.categories:
        digest.update(repr(list(dataset.categories)).encode())
    for split, records in dataset.splits.items():
        number = shards if shards and split == TRAIN else max(1, round(sizes[split] / target))
        number = min(number, len(records))
        ordered = sorted(records, key=lambda record: (_hash(record.name), record.name))
        for i in range(number):
            part = ordered[i * len(ordered) // number : (i + 1) * len(ordered) // number]
            parts.append(Shard(split, i, number, part))
            digest.update(repr((split, i, number)).encode())
            for record in part:
                digest.update(repr((record.name, record.label, record.size)).encode())
                if record.interval is not None:
                    digest.update(repr(record.interval).encode())
                if record.listed is not None:
                    objects = as_dataset([record.listed], dataset.categories)["annotations"]
                    digest.update(json.dumps(objects).encode())
    return Plan(parts, digest.hexdigest())


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
