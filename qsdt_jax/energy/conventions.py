"""What the operations of a network cost, under four conventions side by side.

No convention is the truth. Each says what it counts, and prices the spiking network and two networks of the
same layout without spikes alike: a quantised ANN, with the same weight bits and D + 1 activation levels that
are multiplied at once, and a float ANN.

    paper        The field's own. Spikes are float32 additions, the first layer float32 multiply-accumulates.
                 Layers inside RepConv and SepConv count as if merged with the layer before them: as
                 additions, at the rate of the spikes that enter the chain.
    as computed  Spikes are additions, real inputs multiply-accumulates, both in float32.
    bit-aware    Spikes add a 4-bit weight into an int32 accumulator; the quantised ANN multiplies in int8.
                 Where real values come in, both multiply in float32. Float weights are added in float32,
                 and the quantised ANN, which has them too, multiplies them in float32.
    with memory  The same, and the traffic: weights once from DRAM and then for each operation from SRAM,
                 activations in and out of SRAM at their width. The spiking network takes its input slot by
                 slot, so its int32 sums wait in SRAM and are read and written once for each of D slots; the
                 ANNs write theirs once.

With T > 1 the ANNs run T times as well.

Attention, in every convention, is two products without weights: the spikes of k select rows of v, which are
added to k^T v, and those of q rows of k^T v. So the additions follow the counts of k and of q; that v is
sparse as well saves nothing here. `with memory` reads a 32-bit row entry for each of these operations, and
brings what comes in (k and v, or q and k^T v) in once at the width of counts. The two products of a
SpikingResformer are likewise additions of real rows that spikes select, and its head receives real values.

Nothing is charged for what follows or joins the products, in all three networks: scale and shift, neurons
and their membranes, thermometer code, shortcuts, pooling, enlarging of maps to nearest neighbours or
bilinearly, softmax. Nor for the images before they are in
SRAM, the reuse of operands in registers and caches, addresses of spikes, control, clock, leakage, or the
network of a chip.

Prices: 45 nm (Horowitz, ISSCC 2014), in picojoule.
"""

from collections.abc import Callable
from typing import NamedTuple

from qsdt_jax.energy.layer import Layer
from qsdt_jax.layers.bits_rules import FLOAT_BITS

FLOAT32_MAC = 4.6
FLOAT32_ADD = 0.9
INT8_MAC = 0.23
INT32_ADD = 0.1
SRAM_WORD = 5.0  # 32 bits.
DRAM_WORD = 640.0  # 32 bits.
WORD = 32


class Prices(NamedTuple):
    """Picojoule for one operation, and in memory for 32 bits.

    Attributes:
      float_mac, float_add: where real values or float weights come in, and in the float ANN.
      quantized_mac: of the quantised ANN.
      quantized_add: a spike adds a weight of 1 to 8 bits.
      sram, dram: for 32 bits.
    """

    float_mac: float
    float_add: float
    quantized_mac: float
    quantized_add: float
    sram: float
    dram: float


BY_WIDTH = Prices(
    float_mac=FLOAT32_MAC,
    float_add=FLOAT32_ADD,
    quantized_mac=INT8_MAC,
    quantized_add=INT32_ADD,
    sram=SRAM_WORD,
    dram=DRAM_WORD,
)


class Firing(NamedTuple):
    """What the price of a layer depends on besides the layer.

    Attributes:
      levels: D.
      count: mean spike count of a named neuron in one time step, 0..D.
    """

    levels: int
    count: Callable[[str], float]


class Energy(NamedTuple):
    """Picojoule for one image."""

    spiking: float
    quantized_ann: float
    float_ann: float

    def __add__(self, other: "Energy") -> "Energy":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Energy(*(a + b for a, b in zip(self, other, strict=True)))


def additions(layer: Layer, firing: Firing) -> float:
    """Synaptic operations: additions that spikes cause in a layer; 0 where real values come in."""
    return layer.macs * firing.count(layer.spikes) if layer.spikes else 0.0


def paper(layer: Layer, firing: Firing) -> Energy:
    spiking = layer.macs * FLOAT32_MAC
    if layer.entering:
        spiking = layer.macs * firing.count(layer.entering) * FLOAT32_ADD
    return Energy(spiking, layer.macs * FLOAT32_MAC, layer.macs * FLOAT32_MAC)


def as_computed(layer: Layer, firing: Firing) -> Energy:
    macs = layer.macs * FLOAT32_MAC
    return Energy(additions(layer, firing) * FLOAT32_ADD if layer.spikes else macs, macs, macs)


def bit_aware(layer: Layer, firing: Firing, prices: Prices = BY_WIDTH) -> Energy:
    macs = layer.macs * prices.float_mac
    if not layer.spikes:
        return Energy(macs, macs, macs)
    if layer.bits == FLOAT_BITS:
        return Energy(additions(layer, firing) * prices.float_add, macs, macs)
    spiking = additions(layer, firing) * prices.quantized_add
    return Energy(spiking, layer.macs * prices.quantized_mac, macs)


def with_memory(layer: Layer, firing: Firing) -> Energy:
    arithmetic, sram, dram = parts_of(layer, firing, BY_WIDTH).values()
    return arithmetic + sram + dram


def parts_of(layer: Layer, firing: Firing, prices: Prices) -> dict[str, Energy]:
    """What `with memory` counts, at other prices: "arithmetic", "SRAM" and "DRAM"."""

    def sram(operations: float, weight_bits: int, input_bits: int, sums: int) -> float:
        """Weights for each operation, inputs once, int32 sums `sums` times."""
        operand = weight_bits if layer.weights else WORD  # In attention, rows of v and of k^T v are added.
        bits = operations * operand + layer.inputs * input_bits + layer.outputs * WORD * sums
        return bits * prices.sram / WORD

    def dram(weight_bits: int) -> float:
        return layer.weights * weight_bits * prices.dram / WORD

    if layer.spikes:
        spiking = sram(additions(layer, firing), layer.bits, firing.levels, 2 * firing.levels)
        quantized = sram(layer.macs, layer.bits, firing.levels.bit_length(), 1)
    else:
        spiking = quantized = sram(layer.macs, layer.bits, WORD, 1)
    return {
        "arithmetic": bit_aware(layer, firing, prices),
        "SRAM": Energy(spiking, quantized, sram(layer.macs, WORD, WORD, 1)),
        "DRAM": Energy(dram(layer.bits), dram(layer.bits), dram(WORD)),
    }


CONVENTIONS: dict[str, Callable[[Layer, Firing], Energy]] = {
    "paper": paper,
    "as computed": as_computed,
    "bit-aware": bit_aware,
    "with memory": with_memory,
}
