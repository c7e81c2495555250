"""The run that the rows of a study change, on the data that are at hand."""

from ml_collections import ConfigDict

from configs.ablations.small_digits import small_digits
from configs.imagenet_s import get_config as imagenet_s


def study_base(data: str) -> ConfigDict:
    """4-bit weights, IE-LIF with D = 4, T = 1.

    Args:
      data: "digits", the embedded ones with a tiny net, or "imagenet", with size S and the paper's recipe.

    Raises:
      ValueError: other data.
    """
    if data not in ("digits", "imagenet"):
        raise ValueError(f"no study on {data!r}; there are digits and imagenet")
    return small_digits() if data == "digits" else imagenet_s()
