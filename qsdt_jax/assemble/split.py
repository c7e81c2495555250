"""A split of the data as evaluation sees it: in batches over all devices, for training and for commands."""

from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from qsdt_jax.assemble.data import build_preprocess, build_source, class_names_of
from qsdt_jax.data.classes import Classes, require_same_classes
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.data.pipeline import HostBatch, evaluation_batches
from qsdt_jax.data.plan import Plan, groups_of
from qsdt_jax.data.preprocess import Preprocessing
from qsdt_jax.data.sources import Source
from qsdt_jax.progress import Progress
from qsdt_jax.train.parallel import Parallel


class Split:
    """All images of a split, or its first ones, each once.

    Args:
      config: names the data and the size of the batches.
      name: "test" or "train".
      network: its classes; None where its outputs are none.
      images: how many; None for all.
      parallel: the devices that batches are spread over; all there are unless given.
      source, preprocess: of the split, where they are built already.

    Attributes:
      name: what the data call the split; the test split of ImageNet is its "validation".
      images: their number.
      batch_size: `config.eval.batch_size`, or a little more, which divides over the devices.
      parallel: the devices.
      truth: what its source has as `truth`, see `tasks.task.Scorer.summarize`; None where it has none.

    Raises:
      UserError: the data cannot be read, have other classes than the network, or an image that none of the
        data's buckets holds.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        name: str,
        network: Classes | None,
        images: int | None = None,
        parallel: Parallel | None = None,
        source: Source | None = None,
        preprocess: Preprocessing | None = None,
    ):
        self._config = config
        self._preprocess = build_preprocess(config) if preprocess is None else preprocess
        self._source = build_source(config, name) if source is None else source
        self.name: str = getattr(self._source, "split", name)
        if network is not None:
            require_same_classes(class_names_of(self._source) or (), network, what=f"the {name} split")
        size = config.eval.batch_size
        self.images = len(self._source)
        self.truth: Any = getattr(self._source, "truth", None)
        if images is not None:
            self.images = min(self.images, images)
            size = min(size, self.images)
        self.parallel = parallel or Parallel()
        self.batch_size = self.parallel.evaluation_batch_size(size)
        self._plan = Plan(groups_of(self._source, self._preprocess.buckets, self.images), self.batch_size)

    def host_batches(self) -> Iterator[HostBatch]:
        """The rows that this process reads, batch by batch; padding has mask 0."""
        return evaluation_batches(
            self._source,
            self._preprocess.evaluate,
            batch_size=self.batch_size,
            groups=self._plan.groups,
            workers=self._config.data.workers,
            rows=self.parallel.rows(self.batch_size),
        )

    def batches(self, done: str, title: str = "") -> Iterator[dict[str, jax.Array]]:
        """Batches as inputs, see `data.inputs`, spread over the devices; padding has mask 0.

        For one process, and with "jit": what is jitted and takes a batch runs on all devices. All have the
        same number of rows, and one shape unless the data have buckets.

        Args:
          done: what has been done with a batch when the next one is asked for, e.g. "measured".
          title: a line above the progress.
        """
        progress = Progress(self._plan.steps, 0, self.batch_size)
        if title:
            progress.say(title)
        try:
            for number, batch in enumerate(self.host_batches(), start=1):
                yield to_inputs(self.parallel.place(batch), self._preprocess.normalization)
                progress.update(number, done)
        finally:
            progress.close()
