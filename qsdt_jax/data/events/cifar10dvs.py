"""How the streams of CIFAR10-DVS, whose camera lay on its side, are called: cifar10_airplane_0.aedat."""

import re

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OF_THIS_SET = re.compile(rf"cifar10_({'|'.join(CLASS_NAMES)})_\d+\.aedat", re.IGNORECASE)


def is_cifar10dvs(file_name: str) -> bool:
    """Whether a file is called as the streams of this data set are."""
    return OF_THIS_SET.fullmatch(file_name) is not None
