"""A network in words, the same on a model card and on the command line."""

from collections.abc import Iterable

from qsdt_jax.layers.bits_rules import FLOAT_BITS, BitsRule


def weights_told(bits: int, rules: Iterable[BitsRule]) -> str:
    """The bits of the weights: "4-bit weights", or with rules "4-bit weights (`head`: 8-bit)"."""
    parts = ", ".join(f"`{rule.pattern}`: {_bits(rule.bits)}" for rule in rules)
    return f"{_bits(bits)} weights" + (f" ({parts})" if parts else "")


def _bits(bits: int) -> str:
    return "float" if bits == FLOAT_BITS else f"{bits}-bit"


def amount(number: int) -> str:
    """A number of operations: "6.473 G", and below 1 G "81.200 M"."""
    return f"{number / 1e9:,.3f} G" if number >= 1e9 else f"{number / 1e6:,.3f} M"
