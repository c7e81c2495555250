"""entropy, mutual information and bimodality of q, k and v, head by head, and the spikes of an image."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.flags import DEFINED_OFTEN, define_path, require_writable
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.evaluate.information import Information
    from qsdt_jax.loading.trained import Trained

WORKDIR = define_path("workdir", "directory of a run or an import")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "train"], "split of the data", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
PNG = define_path("png", "file that gets the histograms as a picture")

HEADER = f"{'':22}{'head':>4}{'entropy (bit)':>18}{'mutual inf. (bit)':>20}{'bimodality':>16}"


def main() -> None:
    """Prints a line for each head, before -> after rectification."""
    from qsdt_jax.loading.trained import load_trained

    if WORKDIR.value is None:
        raise UserError("information needs --workdir DIR")
    if PNG.value:
        require_writable("png", PNG.value)
    trained = load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    found = information(trained, SPLIT.value)
    print("\n".join([f"{trained.title}, before -> after rectification", HEADER, *lines(found)]))
    print(f"{sum(found.spikes.values()):,.0f} spikes an image in {len(found.spikes)} layers of neurons")
    if PNG.value:
        draw(found, trained.title, PNG.value)


def information(trained: "Trained", split: str) -> "Information":
    """What the spikes of a network carry on a split; raises UserError as evaluation does."""
    from qsdt_jax.assemble.network import require_logits
    from qsdt_jax.assemble.split import Split
    from qsdt_jax.evaluate.information import measure

    batches = Split(trained.config, split, trained.classes).batches("measured")
    return measure(require_logits(trained.task.model, trained.title), trained.variables, batches)


def in_order(found: "Information") -> list[str]:
    """The projections, q before k before v in each block."""
    return sorted(found.after, key=lambda name: (name[:-1], "qkv".index(name[-1])))


def lines(found: "Information") -> list[str]:
    """One for each head of each projection."""
    table = []
    for name in in_order(found):
        after, before = found.after[name], found.before[name]
        for head in range(len(after.joint)):
            cells = [
                f"{getattr(before, measure)[head]:.2f} -> {getattr(after, measure)[head]:.2f}"
                for measure in ("count_entropy", "mutual_information", "bimodality")
            ]
            table.append(f"{name:22}{head:>4}{cells[0]:>18}{cells[1]:>20}{cells[2]:>16}")
    return table


def draw(found: "Information", title: str, file: str | Path) -> None:
    """Histograms of potentials (lines) and counts (bars), all heads of a projection together."""
    import numpy as np
    from matplotlib.figure import Figure

    from qsdt_jax.evaluate.information import BINS, HIGHEST, LOWEST

    names = in_order(found)
    figure = Figure(figsize=(10, 1.9 * len(names) / 3), layout="constrained")
    grid = figure.subplots(len(names) // 3, 3, sharex=True, squeeze=False)
    centres = LOWEST + (np.arange(BINS) + 0.5) * (HIGHEST - LOWEST) / BINS
    for axes, name in zip(grid.flat, names, strict=True):
        for distributions, color, label in (
            (found.before, "tab:orange", "before"),
            (found.after, "tab:blue", "after"),
        ):
            joint = distributions[name].joint.sum(0)
            share = joint / joint.sum()
            axes.step(centres, share.sum(1), color=color, where="mid", label=f"potential {label}")
            levels = np.arange(joint.shape[1]) / (joint.shape[1] - 1)
            shift = 0.02 if label == "after" else -0.02
            axes.bar(levels + shift, share.sum(0), width=0.04, color=color, alpha=0.4, label=f"count {label}")
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
    grid.flat[0].legend(fontsize=6)
    figure.suptitle(f"{title}: rectification, counts as c/D", fontsize=9)
    figure.savefig(file, dpi=120)
