"""The start of a split, image by image as evaluation sees it, with progress."""

import itertools
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from launch.build import build_preprocess, build_source
from qsdt_jax.data.pipeline import HostBatch, evaluation_batches
from qsdt_jax.errors import UserError
from qsdt_jax.progress import Progress


class Split:
    """The first images of a split.

    Args:
      config: names the data and the size of the batches.
      name: "test" or "train".
      images: how many; None for all.

    Raises:
      UserError: the data cannot be read.
    """

    def __init__(self, config: ml_collections.ConfigDict, name: str, images: int | None = None):
        self._config, self._name = config, name
        self._source = build_source(config, name)
        self._images = min(len(self._source), images or len(self._source))

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Raises UserError where the split has another number of classes than the network."""
        found = len(self._source.class_names)
        if found != len(class_names):
            raise UserError(
                f"the {self._name} split has {found} classes, but the network has {len(class_names)}"
            )

    def batches(self) -> Iterator[HostBatch]:
        """Batches of one size; rows beyond the last image have mask 0."""
        size = min(self._config.eval.batch_size, self._images)
        steps = -(-self._images // size)
        progress = Progress(steps, 0, size)
        preprocess = build_preprocess(self._config)
        stream = evaluation_batches(self._source, preprocess.evaluate, batch_size=size)
        try:
            for number, batch in enumerate(itertools.islice(stream, steps), start=1):
                mask = np.array(batch["mask"])
                mask[max(0, self._images - (number - 1) * size) :] = 0
                yield {**batch, "mask": mask}
                progress.update(number, "measured")
        finally:
            progress.close()
