"""The annotation of an image, unsigned (H, W): the class of each pixel, 0..K-1, or that it is ignored.

The largest value of the type marks what is ignored, 255 in uint8 and 65535 in uint16: pixels without a label,
and what lies outside of the image.
"""

import numpy as np
from numpy.typing import DTypeLike


def ignored(dtype: DTypeLike) -> int:
    """The value of a pixel that is ignored, in an annotation of this type."""
    return int(np.iinfo(dtype).max)


def annotation_dtype(num_classes: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type that holds the classes and the ignored value."""
    return np.uint8 if num_classes <= ignored(np.uint8) else np.uint16


def labelled_counts(annotation: np.ndarray) -> np.ndarray:
    """int (K',), pixels of each class, of all classes up to the largest one there is."""
    labelled = annotation[annotation != ignored(annotation.dtype)]
    return np.bincount(labelled)
