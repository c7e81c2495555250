"""The table of a network's modules: parameters, bits, operations, and the totals."""

import jax

from qsdt_jax.models.classifier import HEADS
from qsdt_jax.models.detector import OUTPUT_LAYERS as DETECTOR_OUTPUTS
from qsdt_jax.models.operations import LayerOperations
from qsdt_jax.models.segmenter import OUTPUT_LAYER as SEGMENTER_OUTPUT
from qsdt_jax.models.told import amount
from qsdt_jax.tasks.task import Variables
from qsdt_jax.train.state import parameter_count

MEGABYTE = 1e6
OUTPUT_LAYERS = (*HEADS, SEGMENTER_OUTPUT, *DETECTOR_OUTPUTS)
COLUMNS = ("module", "output", "parameters", "bits", "MACs (M)", "input")


def block_rows(layers: list[LayerOperations], variables: Variables) -> list[tuple[str, ...]]:
    """A row of `COLUMNS` for each block of the network, parameters of its batch norms included."""
    blocks: dict[str, list[LayerOperations]] = {}
    for layer in layers:
        blocks.setdefault(layer.name.split("/")[0], []).append(layer)
    return [
        _row(name, own, parameter_count({"params": variables["params"][name]}))
        for name, own in blocks.items()
    ]


def layer_rows(layers: list[LayerOperations], variables: Variables) -> list[tuple[str, ...]]:
    """A row of `COLUMNS` for each layer, and one for the parameters of all batch norms and layer scales."""
    counts = []
    for layer in layers:
        own = variables["params"]
        for name in layer.name.split("/") if layer.weights else ():
            own = own[name]
        counts.append(parameter_count({"params": own}) if layer.weights else 0)
    rows = [_row(layer.name, [layer], count) for layer, count in zip(layers, counts, strict=True)]
    rest = parameter_count(variables) - sum(counts)
    return [*rows, ("batch norms, layer scales", "", f"{rest:,}", "32", "", "")]


def _row(name: str, layers: list[LayerOperations], parameters: int) -> tuple[str, ...]:
    macs = sum(layer.macs for layer in layers)
    shape = "x".join(map(str, layers[-1].output_shape))  # A block ends with a layer of its own shape.
    bits = "/".join(sorted({str(layer.bits) for layer in layers if layer.weights})) or "-"
    share = sum(layer.macs for layer in layers if layer.spike_input) / macs
    source = {0.0: "real", 1.0: "spikes"}.get(share, f"{100 * share:.0f} % spikes")
    return name, shape, f"{parameters:,}", bits, f"{macs / 1e6:,.1f}", source


def totals(
    layers: list[LayerOperations], variables: Variables, batch: int, training_macs: int
) -> list[tuple[str, str]]:
    """Rows (what, value) over the whole network; the MACs of an image in training are given."""
    live = parameter_count(variables)
    weights = sum(layer.weights for layer in layers)
    stored, real = stored_bytes(layers, variables)
    macs = sum(layer.macs for layer in layers)
    attention = sum(layer.macs for layer in layers if layer.kind == "attention")
    spikes = sum(layer.macs for layer in layers if layer.spike_input)
    words = sum(layer.weights * layer.bits / 32 for layer in layers if layer.name not in OUTPUT_LAYERS)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    return [
        ("live parameters", f"{live:,}, and {statistics:,} running statistics"),
        ("quantised weights", f"{weights:,} in {sum(layer.weights > 0 for layer in layers)} layers"),
        ("stored", f"{stored / MEGABYTE:.2f} MB: weights packed, all other parameters float32"),
        ("unquantised", f"{real / MEGABYTE:.2f} MB: all float32, no step sizes; {real / stored:.2f} times"),
        ("paper's Param (M)", f"{words / 1e6:.2f}: 32-bit words of the weights without classifier"),
        ("MACs per image", f"{amount(macs)}, of these {amount(attention)} in attention products"),
        ("MACs on spikes", f"{100 * spikes / macs:.1f} %"),
        ("FLOPs per train step", f"about {amount(6 * training_macs * batch)}: 2 x 3 x MACs x batch {batch}"),
    ]


def stored_bytes(layers: list[LayerOperations], variables: Variables) -> tuple[int, int]:
    """Bytes of the quantised network, and of the same network in float32.

    Quantised: weights packed, one float32 scale per output channel, biases, batch-norm affines and layer
    scales float32. Float32: no scales. Running statistics are left out of both: they fold into the affines.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    steps = sum(leaf.size for path, leaf in leaves if path[-1].key == "step_size")
    weights = sum(layer.weights for layer in layers)
    rest = parameter_count(variables) - steps - weights
    packed = sum(-(-layer.weights * layer.bits // 8) for layer in layers)
    scales = sum(layer.output_shape[-1] for layer in layers if layer.weights and layer.bits < 32)
    return packed + 4 * (scales + rest), 4 * (weights + rest)
