"""Pictures of a network's energy and spikes, as matplotlib figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from qsdt_jax.deploy.program import Attend, Program
from qsdt_jax.deploy.spike_driven import unroll
from qsdt_jax.energy.conventions import CONVENTIONS, Energy
from qsdt_jax.energy.report import MILLI_JOULE, Report
from qsdt_jax.explain.attention import received

# Quoted from the paper and its comparisons, ImageNet-1K: top-1 (%), mJ, parameters (M 32-bit words).
PUBLISHED = {
    "QSD-Transformer-L": (80.3, 8.7, 6.8),
    "SDT-V2": (79.7, 52.4, 55.4),
    "SpikingResformer": (78.7, 8.8, 60.4),
    "SDT-V1": (76.3, 6.1, 66.3),
    "Spikformer": (74.8, 21.5, 66.3),
}
COLORS = {"spiking": "#2f6fb5", "quantized_ann": "#d08a2e", "float_ann": "#8a8f98"}
NAMES = {"spiking": "spiking", "quantized_ann": "quantised ANN", "float_ann": "float ANN"}
WORD_BYTES = 4
BUBBLE, SMALLEST = 9.0, 16.0  # Points of area for a million words, and of the smallest network.
DEPTH = "neuron, from the images to the logits"


def energy_by_convention(report: Report) -> Figure:
    """Totals of the three networks, one group of bars a convention."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, kind in enumerate(Energy._fields):
        heights = [getattr(report.totals[name], kind) * MILLI_JOULE for name in CONVENTIONS]
        places = np.arange(len(CONVENTIONS)) + 0.27 * (i - 1)
        bars = axes.bar(places, heights, 0.25, color=COLORS[kind], label=NAMES[kind])
        axes.bar_label(bars, [f"{height:.3g}" for height in heights], fontsize=7, padding=1)
    axes.set_xticks(range(len(CONVENTIONS)), list(CONVENTIONS))
    axes.set(ylabel="mJ an image", yscale="log")
    axes.margins(y=0.12)
    axes.legend(frameon=False, ncols=3, loc="upper left", fontsize=8)
    return _plain(figure)


def energy_by_layer(report: Report) -> Figure:
    """Each layer's energy in the order of depth, one panel a convention."""
    figure = Figure(figsize=(10, 1.9 * len(CONVENTIONS)), layout="constrained")
    panels = figure.subplots(len(CONVENTIONS), 1, sharex=True)
    x = np.arange(len(report.layers))
    real = np.array([row.layer.spikes is None for row in report.layers])
    for axes, name in zip(panels, CONVENTIONS, strict=True):
        spiking = np.array([row.energy[name].spiking for row in report.layers]) * MILLI_JOULE
        twin = np.array([row.energy[name].quantized_ann for row in report.layers]) * MILLI_JOULE
        axes.bar(x[~real], spiking[~real], color=COLORS["spiking"], label="spiking: spikes come in")
        axes.bar(x[real], spiking[real], color="#a7c4e2", label="spiking: real values come in")
        axes.plot(x, twin, "_", color=COLORS["quantized_ann"], markersize=5, label="quantised ANN")
        axes.set(ylabel="mJ", yscale="log")
        axes.set_title(name, fontsize=9, loc="left")
    panels[0].legend(frameon=False, ncols=3, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    panels[-1].set_xlabel("layer, from the images to the logits")
    return _plain(figure)


def firing_rates(report: Report) -> Figure:
    """Share of the slots that carry a spike, by neuron in the order of depth."""
    names = list(report.activity.histograms)
    rates = [100 * report.activity.firing_rate(name) for name in names]
    kinds = {"q_neuron": "q", "k_neuron": "k", "v_neuron": "v", "attn_neuron": "q (k^T v)"}
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    labels = [kinds.get(name.rpartition("/")[2], "others") for name in names]
    for i, kind in enumerate(["others", *kinds.values()]):
        chosen = [j for j, label in enumerate(labels) if label == kind]
        axes.plot(chosen, [rates[j] for j in chosen], "o", color=f"C{i}", markersize=4, label=kind)
    mean = 100 * report.firing_rate
    axes.axhline(mean, color="0.6", linewidth=0.8)
    place = axes.get_yaxis_transform()
    text = f"mean {mean:.1f} %, by the operations that a spike drives"
    axes.annotate(text, (1, mean), xycoords=place, ha="right", va="bottom", fontsize=8)
    axes.set(xlabel=DEPTH, ylabel="firing rate of a slot (%)", ylim=(0, None))
    axes.legend(frameon=False, ncols=5, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return _plain(figure)


def count_histograms(report: Report) -> Figure:
    """Share of each count 0..D, one column a neuron in the order of depth."""
    table = np.array(list(report.activity.histograms.values()), np.float64)
    table /= table.sum(1, keepdims=True)
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    bottom = np.zeros(len(table))
    for count in range(table.shape[1]):
        shade = count / (table.shape[1] - 1)
        color = (0.92 - 0.74 * shade, 0.94 - 0.50 * shade, 0.96 - 0.25 * shade)
        axes.bar(np.arange(len(table)), table[:, count], 0.9, bottom=bottom, color=color, label=str(count))
        bottom += table[:, count]
    axes.set(xlabel=DEPTH, ylabel="share of counts", ylim=(0, 1))
    figure.legend(title="count", frameon=False, fontsize=8, loc="outside right center", reverse=True)
    return _plain(figure)


def accuracy_energy_size(report: Report, name: str, stored: int) -> Figure:
    """The published points, quoted, and this network of so many bytes under each convention; area is size."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    axes = figure.subplots()
    for number, (label, (top1, energy, words)) in enumerate(PUBLISHED.items(), start=1):
        text = f"{number}  {label}: {energy} mJ, {top1} % (quoted)"
        axes.scatter(energy, top1, BUBBLE * words, color="0.82", edgecolor="0.5", linewidth=0.6, label=text)
        axes.annotate(str(number), (energy, top1), fontsize=7, ha="center", va="center")
    area = max(BUBBLE * stored / WORD_BYTES / 1e6, SMALLEST)
    for i, (convention, total) in enumerate(report.totals.items()):
        energy, top1 = total.spiking * MILLI_JOULE, report.activity.metrics["top1"]
        text = f"{name}, {convention}: {energy:.3g} mJ, {top1:.1f} %"
        axes.scatter(energy, top1, area, color=f"C{i}", label=text)
    axes.set(xlabel="energy of an image (mJ)", ylabel="top-1 (%)", xscale="log")
    axes.margins(0.15)
    legend = figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    for handle in legend.legend_handles:
        handle.set_sizes([30])  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return _plain(figure)


def attention_maps(program: Program, values: Mapping[str, Any], images: np.ndarray) -> Figure:
    """How much of all attention each token receives, sum over queries and heads of q_i k_j, by block.

    Laid over the image. A token is what a pixel of stage 3 sees, 16x16 pixels of the image, so small images
    have few; the share of each is written where there is room.

    Args:
      program: a folded classifier.
      values: of `interpreter.interpret` on the images.
      images: (N, H, W, C) in 0..1, as people see them.
    """
    blocks = [step for step in program.steps if isinstance(step, Attend)]
    shown = blocks[:: max(1, len(blocks) // 4)][-4:]
    frames = program.neuron.timesteps
    figure = Figure(figsize=(1.5 * len(images), 1.5 * (len(shown) + 1)), layout="constrained")
    grid = figure.subplots(len(shown) + 1, len(images), squeeze=False)
    for column, image in enumerate(images):
        grey = np.broadcast_to(image.mean(-1, keepdims=True), (*image.shape[:2], 3))
        grid[0, column].imshow(image if image.shape[-1] == 3 else grey)
        for axes, block in zip(grid[1:, column], shown, strict=True):
            own = slice(column * frames, (column + 1) * frames)  # Its time steps.
            attention = received(*(np.asarray(values[name][own]) for name in (block.q, block.k)))
            axes.imshow(grey)
            _overlay(axes, attention / max(attention.sum(), 1), image.shape)
    for axes, block in zip(grid[1:, 0], shown, strict=True):
        axes.set_ylabel(block.name.removesuffix("/attn"), fontsize=7)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    return figure


def _overlay(axes: Axes, shares: np.ndarray, size: tuple[int, ...]) -> None:
    """Shares of tokens over an image of this size: red above an even share, blue below."""
    height, width = size[:2]
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(shares, cmap="coolwarm", vmin=0, vmax=2 / shares.size, alpha=0.45, extent=edges)
    rows, columns = shares.shape
    if shares.size <= 16:
        for i, j in np.ndindex(rows, columns):
            x, y = (j + 0.5) * width / columns - 0.5, (i + 0.5) * height / rows - 0.5
            text = f"{100 * shares[i, j]:.0f} %"
            written = axes.text(x, y, text, ha="center", va="center", color="white", fontsize=8)
            written.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def spike_rasters(
    program: Program, values: Mapping[str, Any], neurons: Sequence[str], channels: int = 64
) -> Figure:
    """Binary spikes of the first image in the virtual time steps: one row a channel, at the middle pixel."""
    frames, levels = program.neuron.timesteps, program.neuron.levels
    figure = Figure(figsize=(2.2 * len(neurons), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(neurons))), neurons, strict=True):
        counts = np.asarray(values[name][:frames])
        middle = counts[:, counts.shape[1] // 2, counts.shape[2] // 2, :channels]  # (T, C)
        slots = np.stack([np.asarray(slot) for slot in unroll(middle, levels)], 1)  # (T, D, C)
        time, channel = np.nonzero(slots.reshape(frames * levels, -1))
        axes.plot(time + 1, channel, "|", color=COLORS["spiking"], markersize=3)
        axes.set(xlim=(0.5, frames * levels + 0.5), ylim=(-1, middle.shape[1]), xlabel="virtual time step")
        axes.set_xticks(range(1, frames * levels + 1, max(1, frames * levels // 8)))
        axes.set_title(name.replace("/", "\n"), fontsize=7)
        for t in range(1, frames):
            axes.axvline(t * levels + 0.5, color="0.8", linewidth=0.8)
    figure.axes[0].set_ylabel("channel")
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
