"""A split of the data as evaluation sees it, in training's batches and with progress."""

import itertools
from collections.abc import Iterator

import ml_collections
import numpy as np

from qsdt_jax.assemble.data import build_preprocess, build_source
from qsdt_jax.data.classes import Classes, require_same_classes
from qsdt_jax.data.pipeline import HostBatch, evaluation_batches
from qsdt_jax.errors import UserError
from qsdt_jax.progress import Progress


class Split:
    """All images of a split, or its first ones.

    Args:
      config: names the data and the size of the batches.
      name: "test" or "train".
      network: its classes; None where its outputs are none.
      images: how many; None for all.

    Attributes:
      name: what the data call the split; the test split of ImageNet is its "validation".
      images: their number.

    Raises:
      UserError: the data cannot be read, or have other classes than the network.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        name: str,
        network: Classes | None,
        images: int | None = None,
    ):
        self._config = config
        self._source = build_source(config, name)
        self.name: str = getattr(self._source, "split", name)
        if network is not None:
            require_same_classes(self._source.class_names, network, what=f"the {name} split")
        self._size = config.eval.batch_size
        if self._size < 1:
            raise UserError(f"config.eval.batch_size={self._size} must be at least 1")
        self.images = len(self._source)
        if images is not None:
            self.images = min(self.images, images)
            self._size = min(self._size, self.images)

    def batches(self, done: str, title: str = "") -> Iterator[HostBatch]:
        """Batches of one size; rows beyond the last image have mask 0.

        Args:
          done: what has been done with a batch when the next one is asked for, e.g. "measured".
          title: a line above the progress.
        """
        size = self._size
        steps = -(-self.images // size)
        progress = Progress(steps, 0, size)
        if title:
            progress.say(title)
        preprocess = build_preprocess(self._config)
        stream = evaluation_batches(
            self._source, preprocess.evaluate, batch_size=size, workers=self._config.data.workers
        )
        try:
            for number, batch in enumerate(itertools.islice(stream, steps), start=1):
                mask = np.array(batch["mask"])
                mask[max(0, self.images - (number - 1) * size) :] = 0
                yield {**batch, "mask": mask}
                progress.update(number, done)
        finally:
            progress.close()
