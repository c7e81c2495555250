"""Batches from a source: order and augmentation are pure functions of (seed, position).

An example is a dict. Every key that a preprocess returns reaches the batch, where its values stand one above
the other with the dtype and the shape that they have, see `arrays`. A key has one shape in all examples of
training, and in evaluation in all of a group.
"""

import dataclasses
import functools
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qsdt_jax.cpus import usable_cpus
from qsdt_jax.data.arrays import as_arrays, has_64_bits
from qsdt_jax.data.dense.orientation import GroupedOrder, Groups
from qsdt_jax.data.plan import Plan
from qsdt_jax.data.sources import Example, Source
from qsdt_jax.errors import UserError

# It is imported where it is used: an installation without the extra `data` has none.
if TYPE_CHECKING:
    import grain

HostBatch = dict[str, np.ndarray]
BATCHES_AHEAD = 2
PART = 8  # Most examples that a thread or a process reads in one go.


def training_batches(
    source: Source,
    preprocess: Callable[[Example, np.random.Generator], Example],
    *,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    workers: int = 0,
    rows: Sequence[int] | None = None,
    groups: Groups | None = None,
) -> Iterator[HostBatch]:
    """Endless shuffled batches from step `first_step` on.

    One pass through the data is shuffled after the other, so every example comes once an epoch, and batch s
    holds examples s * B .. (s + 1) * B - 1 of that stream, whatever happened before: the position of a
    resumed run is its step. With groups each batch is of one of them, see `dense.orientation.GroupedOrder`.

    Args:
      source: the examples.
      preprocess: from an example to what the batch holds of it, with a generator that depends on
        (seed, position) only.
      seed: of order and augmentation.
      batch_size: B.
      first_step: number of batches to skip, at no cost.
      workers: processes that read and augment; 0 for as many threads of this process as there are cores, -1
        for as many processes.
      rows: positions in each batch that are read, in this order; None for all. What they hold does not depend
        on what else is read.
      groups: indices of the examples whose arrays have one shape; None where all have.

    Yields:
      Each key of the preprocess with B rows, or as many as asked for, e.g. {"image": uint8 (B, H, W, C),
      "label": int32 (B,)}.
    """
    import grain

    if groups is None:
        dataset = grain.MapDataset.source(source).seed(seed)  # pyright: ignore[reportArgumentType]
        dataset = dataset.shuffle().repeat(None)
    else:
        ordered: Any = GroupedOrder(source, groups, batch_size, seed)
        dataset = grain.MapDataset.source(ordered).seed(seed)
    dataset = dataset.random_map(preprocess).map(functools.partial(as_arrays, wide=has_64_bits()))
    if rows is not None:
        chosen: Any = _ChosenRows(dataset, batch_size, rows)
        dataset, batch_size = grain.MapDataset.source(chosen), len(rows)
    return _batches(dataset, batch_size, first_step=first_step, workers=workers)


def evaluation_batches(
    source: Source,
    preprocess: Callable[[Example], Example],
    *,
    batch_size: int,
    groups: Sequence[Sequence[int]] | None = None,
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[HostBatch]:
    """Every example once, group by group in order; the last batch of each is filled up with rows of mask 0.

    Args:
      source: the examples.
      preprocess: from an example to what the batch holds of it; the key "mask" is taken.
      batch_size: B.
      groups: indices of the examples, group by group, see `plan.Plan`; None for all in one.
      workers: as for training.
      rows: positions in each batch that are read, in this order; None for all.

    Yields:
      Each key of the preprocess, and "mask" int32 (B,), with B rows, or as many as asked for. All of a row of
      mask 0 is 0.
    """
    import grain

    dataset = (
        grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
        .map(preprocess)
        .map(functools.partial(as_arrays, wide=has_64_bits()))
    )
    plan = Plan((range(len(source)),) if groups is None else tuple(groups), batch_size)
    chosen = range(batch_size) if rows is None else rows
    planned: Any = _PlannedRows(dataset, plan, chosen)
    return _batches(grain.MapDataset.source(planned), len(chosen), workers=workers)


def _batches(
    examples: "grain.MapDataset", batch_size: int, *, first_step: int = 0, workers: int = 0
) -> Iterator[HostBatch]:
    """Batches of consecutive examples, about `BATCHES_AHEAD` of which are read ahead.

    They are read in parts: many threads or processes then share one batch, and a batch can be large, while
    the cost of handing one example over is not small beside that of reading a small one.
    """
    import grain

    size = math.gcd(batch_size, PART)
    parts = batch_size // size
    # Nothing remains, but without drop_remainder grain takes an endless length for a float.
    dataset = examples.batch(size, drop_remainder=True)[first_step * parts :]
    workers = usable_cpus() if workers == -1 else workers
    if workers:
        each = -(-BATCHES_AHEAD * parts // workers)
        iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
        iterable = iterable.mp_prefetch(options, worker_init_fn=_end_with_the_run)
    else:
        cores = usable_cpus()
        ahead = max(BATCHES_AHEAD * parts, cores)
        iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=cores, prefetch_buffer_size=ahead))
    return _with_worker_errors_explained(iter(iterable.batch(parts, batch_fn=_joined)), workers)


def _end_with_the_run(worker: int, workers: int) -> None:
    """In a process that reads: it ends with the one that started it, also where that is killed."""
    del worker, workers
    run = multiprocessing.parent_process()
    assert run is not None

    def wait() -> None:
        run.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _with_worker_errors_explained(batches: Iterator[HostBatch], workers: int) -> Iterator[HostBatch]:
    """The batches; the end of a process that reads them is told in one line."""
    try:
        yield from batches
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            f"one of the {workers} processes that read the data has ended ({str(error).split('. ')[0]}); "
            "fewer of them take less memory"
        ) from None


def _joined(parts: Sequence[HostBatch]) -> HostBatch:
    """One batch of its parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclasses.dataclass(frozen=True)
class _ChosenRows:
    """The examples at some positions of each batch, one by one."""

    examples: "grain.MapDataset"
    batch_size: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.examples) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> Example:
        batch, row = divmod(index, len(self.rows))
        return self.examples[batch * self.batch_size + self.rows[row]]


@dataclasses.dataclass(frozen=True)
class _PlannedRows:
    """The examples at some positions of each batch of a plan, with "mask" 1; zeros of mask 0 fill it up."""

    examples: "grain.MapDataset"
    plan: Plan
    rows: Sequence[int]

    def __len__(self) -> int:
        return self.plan.steps * len(self.rows)

    def __getitem__(self, index: int) -> Example:
        step, row = divmod(index, len(self.rows))
        batch = self.plan.batch(step)
        place = self.rows[row]
        if place < len(batch):
            return self._masked(self.examples[batch[place]], 1)
        return self._masked(self._nothing(batch[0]), 0)

    def _masked(self, example: HostBatch, mask: int) -> HostBatch:
        if "mask" in example:
            raise ValueError('"mask" tells rows from padding; what a preprocess gives needs another name')
        return {**example, "mask": np.asarray(mask, np.int32)}

    def _nothing(self, index: int) -> HostBatch:
        """Zeros in the shapes of an example, which is read once for many rows."""
        shapes = self._shapes.get(index)
        if shapes is None:
            shapes = {name: (x.shape, x.dtype) for name, x in self.examples[index].items()}
            self._shapes[index] = shapes
        return {name: np.zeros(*shape) for name, shape in shapes.items()}

    @functools.cached_property
    def _shapes(self) -> dict[int, dict[str, tuple[tuple[int, ...], np.dtype]]]:
        return {}
