"""Weight bits by layer: rules of a pattern of paths and a number of bits."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict

from qsdt_jax.core.lsq import weight_range

FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitsRule:
    r"""The weight bits of the layers whose paths match a pattern.

    Attributes:
      pattern: regular expression that a whole path matches, such as r"block.*/attn/[qk]_repconv/.*" for
        "block3_0/attn/q_repconv/conv1".
      bits: 1 to 8, or 32 for float.

    Raises:
      ValueError: the pattern is no regular expression, or the bits are no whole number or out of range.
    """

    pattern: str
    bits: int

    def __post_init__(self):
        if not isinstance(self.pattern, str):
            raise ValueError(f"the pattern of a bits rule is {self.pattern!r}; expected a text like 'head'")
        if not isinstance(self.bits, int) or isinstance(self.bits, bool):
            raise ValueError(f"the bits of a bits rule are {self.bits!r}; expected a whole number")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"{self.pattern!r} is no regular expression: {error}") from None
        if self.bits != FLOAT_BITS:
            weight_range(self.bits)  # Raises when out of range.

    def matches(self, path: str) -> bool:
        """Whether the rule is for a layer."""
        return re.fullmatch(self.pattern, path) is not None


def bits_of(path: str, rules: Sequence[BitsRule], otherwise: int) -> int:
    """The bits of a layer: of the first rule that matches its path."""
    return next((rule.bits for rule in rules if rule.matches(path)), otherwise)


def check_rules(rules: Sequence[BitsRule], params: Mapping[str, Any]) -> None:
    """Refuses rules that no layer obeys.

    Args:
      rules: of a network.
      params: its parameters; a layer is what has a "kernel".

    Raises:
      ValueError: a pattern matches no layer, or none that an earlier rule leaves to it.
    """
    layers = {"/".join(path[:-1]) for path in flatten_dict(params) if path[-1] == "kernel"}
    left = set(layers)
    for rule in rules:
        matched = {path for path in layers if rule.matches(path)}
        if not matched:
            raise ValueError(
                f"the pattern {rule.pattern!r} of a bits rule matches no layer; layers are called like "
                f"{min(layers, key=len)!r}"
            )
        if not matched & left:
            raise ValueError(
                f"the pattern {rule.pattern!r} matches only layers that earlier bits rules match"
            )
        left -= matched
