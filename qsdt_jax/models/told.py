"""A network in words, the same on a model card and on the command line."""

from collections.abc import Iterable

from qsdt_jax.layers.bits_rules import FLOAT_BITS, BitsRule
from qsdt_jax.models import Classifier, MaskRCNN, Segmenter, SpikingResformer


def weights_told(bits: int, rules: Iterable[BitsRule]) -> str:
    """The bits of the weights: "4-bit weights", or with rules "4-bit weights (`head`: 8-bit)"."""
    parts = ", ".join(f"`{rule.pattern}`: {_bits(rule.bits)}" for rule in rules)
    return f"{_bits(bits)} weights" + (f" ({parts})" if parts else "")


def title_told(model: Classifier | Segmenter | MaskRCNN | SpikingResformer) -> str:
    """What a network is called."""
    if isinstance(model, SpikingResformer):
        return "SpikingResformer"
    quantized = model.backbone.bits != FLOAT_BITS
    return "Quantized spike-driven transformer" if quantized else "Spike-driven transformer"


def network_told(model: Classifier | Segmenter | MaskRCNN | SpikingResformer) -> str:
    """Its weights, its neurons and its sizes."""
    if isinstance(model, SpikingResformer):
        neuron = "plif" if model.learned_decay else "lif"
        return (
            f"float weights and spiking neurons ({neuron}, D = 1, T = {model.timesteps}): "
            f"channels {', '.join(map(str, model.channels))}, {sum(model.depths)} blocks"
        )
    backbone = model.backbone
    return (
        f"{weights_told(backbone.bits, backbone.bits_rules)} and spiking neurons "
        f"({backbone.neuron}, D = {backbone.levels}, T = {backbone.timesteps}): "
        f"channels {', '.join(map(str, backbone.channels))}, {backbone.depth} transformer blocks"
    )


def _bits(bits: int) -> str:
    return "float" if bits == FLOAT_BITS else f"{bits}-bit"


def amount(number: int) -> str:
    """A number of operations: "6.473 G", and below 1 G "81.200 M"."""
    return f"{number / 1e9:,.3f} G" if number >= 1e9 else f"{number / 1e6:,.3f} M"
