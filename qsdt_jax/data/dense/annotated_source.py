"""Images with annotations from folders."""

from collections.abc import Sequence

from absl import logging

from qsdt_jax.data.class_folders import tell_once
from qsdt_jax.data.dense.annotations import ignored
from qsdt_jax.data.dense.segmentation_folders import Layout, Pair, told
from qsdt_jax.data.images import image_size, read_image
from qsdt_jax.data.index_images import Numbering
from qsdt_jax.data.sources import Example, SplitName
from qsdt_jax.data.tally import Tally
from qsdt_jax.retry import content_of


def read_pairs(layout: Layout, split: SplitName, channels: int = 3) -> "PairsSource":
    """The split of a data set in folders; log lines tell what was left out.

    Raises:
      UserError: see `Layout.pairs`.
    """
    found = layout.pairs(split)
    for line in told(found):
        tell_once(line)
    return PairsSource(found.pairs, layout.class_names, layout.numbering, channels)


class PairsSource:
    """Images and annotations, read from their files one by one.

    Examples are {"image": uint8 (H, W, C), "annotation": uint8 or uint16 (H, W)}, see `annotations`. An image
    of which no pixel is labelled is an example as any other, and has no part in what labelled pixels decide.
    Log lines tell of the first that was read, the tenth, the hundredth and so on; each process counts those
    that it has read since its start.

    Args:
      pairs: places of the files.
      class_names: in the order of the classes.
      numbering: of the annotations.
      channels: of the images, 1 for grey or 3 for RGB.
    """

    def __init__(
        self, pairs: Sequence[Pair], class_names: tuple[str, ...], numbering: Numbering, channels: int = 3
    ):
        self.class_names = class_names
        self._pairs, self._numbering, self._channels = pairs, numbering, channels
        self._unlabelled = Tally()

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        """The example.

        Raises:
          CorruptRecord: the image or the annotation is damaged, or they do not fit each other or the classes.
          UserError: a file is gone or cannot be read, also not after a while (see `content_of`).
        """
        pair = self._pairs[index]
        image = read_image(pair.image, self._channels)
        encoded = content_of(pair.annotation)
        annotation = self._numbering.decode(encoded, image.shape[:2], pair.annotation)
        if not (annotation != ignored(annotation.dtype)).any():
            self._tell_unlabelled(index)
        return {"image": image, "annotation": annotation}

    def size_of(self, index: int) -> tuple[int, int]:
        """(height, width) of an image, from the beginning of its file.

        Raises:
          CorruptRecord: no image.
          UserError: as `__getitem__`.
        """
        path = self._pairs[index].image
        return image_size(path, path)

    def __reduce__(self):
        return PairsSource, (self._pairs, self.class_names, self._numbering, self._channels)

    def _tell_unlabelled(self, index: int) -> None:
        if number := self._unlabelled.add(index):
            logging.warning(
                "no pixel of %s is labelled; %d such image%s so far",
                self._pairs[index].image,
                number,
                "s" * (number > 1),
            )
