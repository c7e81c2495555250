"""firing rates, operations and energy of a trained network under several conventions, as table and report."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.flags import DEFINED_OFTEN, define_config, define_path
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from ml_collections import ConfigDict

    from qsdt_jax.data.classes import Classes
    from qsdt_jax.deploy.bundle import Bundle
    from qsdt_jax.energy.report import Report, Section
    from qsdt_jax.energy.unfolded import Unfolded
    from qsdt_jax.metric import Metric
    from qsdt_jax.tasks.task import Scorer

CONFIG = define_config()
WORKDIR = define_path("workdir", "directory of a run or an import")
BUNDLE = define_path("bundle", "file of an exported network; its data are those of --workdir or --config")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "train"], "split of the data", **DEFINED_OFTEN)
IMAGES = flags.DEFINE_integer(
    "images", None, "images to measure on, from the start of the split (default: all)", lower_bound=1,
    **DEFINED_OFTEN,
)  # fmt: skip
PROFILE = define_path(
    "profile", "prices of a machine: horowitz_widths, horowitz_float32, or a .toml or .json file of yours"
)
AGAINST = define_path("against", "workdir or exported network whose firing is compared, on the same images")
OUT = define_path(
    "out",
    "folder for tables, energy.html and pictures (default: energy in the workdir or beside the bundle)",
)

SHOWN = 8  # Images with attention maps.
RASTERS = 5


def main() -> None:
    """Measures as the flags say."""
    from qsdt_jax.assemble.split import Split
    from qsdt_jax.energy.distance import distance_section, distances, distances_csv
    from qsdt_jax.energy.profile import load_profile
    from qsdt_jax.energy.profiled import profile_sentences, profile_table
    from qsdt_jax.energy.rates import measure_activity
    from qsdt_jax.energy.report import (
        Section,
        csv_table,
        in_columns,
        levels_table,
        make_report,
        neurobench_csv,
        neurobench_table,
        neurons_table,
        totals_table,
        verdicts,
    )
    from qsdt_jax.energy.unfolded import Unfolded
    from qsdt_jax.files import write_atomically
    from qsdt_jax.verification.measured import firing_beside

    _check_flags()
    profile = load_profile(PROFILE.value) if PROFILE.value else None
    name, bundle_made, config, classes, scorer = _network()
    split = Split(config, SPLIT.value, classes, IMAGES.value)
    beside = firing_beside(AGAINST.value, config, SPLIT.value, IMAGES.value) if AGAINST.value else None
    network = bundle_made()  # Now, because folding takes seconds.
    folder = Path(WORKDIR.value) if WORKDIR.value else Path(BUNDLE.value or "").parent
    out = Path(OUT.value or folder / "energy")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None

    if isinstance(network, Unfolded):
        program, settings = network, None
    else:
        program, settings = network.program, network.settings
    batches = split.batches("measured")
    activity = measure_activity(program, batches, scorer, truth=split.truth(), settings=settings)
    report = make_report(program, network.image_size, activity, settings)
    facts = _facts(name, network, report, scorer.metrics[0])
    sections = [Section(totals_table(report), verdicts(report)), Section(neurobench_table(report))]
    if profile is not None:
        sections.append(Section(profile_table(report, profile), profile_sentences(report, profile)))
    if beside is not None:
        theirs = beside()
        sections.append(distance_section(str(AGAINST.value), activity, theirs))
        write_atomically(out / "distances.csv", distances_csv(distances(activity, theirs)))
    print(*facts, sep="\n")
    for table, sentences in sections:
        print("", in_columns(table), *([""] if sentences else []), *sentences, sep="\n")
    write_atomically(out / "energy.csv", csv_table(report))
    write_atomically(out / "levels.csv", levels_table(report))
    write_atomically(out / "neurons.csv", neurons_table(report))
    write_atomically(out / "neurobench.csv", neurobench_csv(report))
    _draw(out, name, facts, sections, network, report, next(split.batches("measured")))
    compared = "distances.csv, " if beside is not None else ""
    print(
        f"{out}: energy.csv (layers), levels.csv, neurons.csv, neurobench.csv, {compared}energy.html "
        "and its pictures as PNG"
    )


def _check_flags() -> None:
    if BUNDLE.value is None:
        if WORKDIR.value is None:
            raise UserError(
                "energy needs --workdir DIR, or --bundle FILE and its data, --config FILE or --workdir DIR"
            )
        if CONFIG.value is not None:
            raise UserError("--config names the data of a --bundle; a --workdir has its own")
        return
    if (WORKDIR.value is None) == (CONFIG.value is None):
        both = "; got both" if WORKDIR.value else ""
        raise UserError(f"--bundle needs --config FILE or --workdir DIR, which name its data{both}")
    if STEP.value != "latest" or EMA.value:
        raise UserError("--step and --ema choose from a --workdir; a bundle holds one network")


def _network() -> "tuple[str, Callable[[], Bundle | Unfolded], ConfigDict, Classes, Scorer]":
    """What the flags name: title of the network and what makes its bundle; configuration, classes and scores
    of its data."""
    from qsdt_jax.assemble.tasks import task_factory
    from qsdt_jax.loading.deployed import load_deployed
    from qsdt_jax.loading.trained import load_trained, stored_config
    from qsdt_jax.verification.measured import folded_or_trained, prepared_for

    if BUNDLE.value is None:
        trained = load_trained(WORKDIR.value or "", step=STEP.value, ema=EMA.value)
        bundle_made = functools.partial(folded_or_trained, trained)
        return trained.title, bundle_made, trained.config, trained.require_classes(), trained.task
    deployed = load_deployed(BUNDLE.value)
    config = stored_config(WORKDIR.value) if WORKDIR.value else CONFIG.value
    config = prepared_for(deployed, config)
    scorer = task_factory(config.task.name).build(config, deployed.classes.shown)
    return BUNDLE.value, lambda: deployed.bundle, config, deployed.classes, scorer


def _facts(name: str, network: "Bundle | Unfolded", report: "Report", metric: "Metric") -> list[str]:
    from qsdt_jax.deploy.bundle import bundle_bytes
    from qsdt_jax.energy.report import GIGA
    from qsdt_jax.energy.unfolded import Unfolded
    from qsdt_jax.workdir.provenance import provenance

    activity, (height, width) = report.activity, network.image_size
    floats = f"the weights in float32: {4 * sum(row.layer.weights for row in report.layers):,}"
    stored = f"measured as it is trained, because it cannot be folded; bytes of {floats}"
    if not isinstance(network, Unfolded):
        sizes = bundle_bytes(network)
        parts = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
        stored = f"{sum(sizes.values()):,} bytes as a bundle ({parts}); {floats}"
    return [
        f"{name}: {'/'.join(map(str, report.bits))}-bit weights, D = {report.levels}, T = {report.timesteps}",
        f"{activity.images:,} images of the {SPLIT.value} split, "
        f"{metric.title} {metric.text(activity.metrics[metric.name])}",
        f"{report.macs / GIGA:.4g} GMACs for an image of {height}x{width} pixels, as spikes "
        f"{report.additions / GIGA:.4g} G additions and "
        f"{report.multiplications / GIGA:.4g} G multiply-accumulates of real values",
        *_regions(network),
        stored,
        f"commit {provenance()['commit']}",
    ]


def _regions(network: "Bundle | Unfolded") -> list[str]:
    """Of a detector, what is counted of its heads, and what is not."""
    settings = getattr(network, "settings", None)
    if settings is None:
        return []
    return [
        f"the heads are counted for {settings.proposals[1]:,} regions (box head) and "
        f"{settings.detections:,} (mask head) of an image, each with the counts of those in use; "
        "RoIAlign, decoding of boxes and non-maximum suppression are counted under no convention"
    ]


def _draw(
    out: Path,
    name: str,
    facts: list[str],
    sections: "list[Section]",
    network: "Bundle | Unfolded",
    report: "Report",
    batch: Any,
) -> None:
    from qsdt_jax.energy import conventions, plots
    from qsdt_jax.energy.page import page
    from qsdt_jax.energy.unfolded import Unfolded
    from qsdt_jax.files import write_atomically

    figures = {
        "totals": ("Energy of an image under each convention", plots.energy_by_convention(report)),
        "layers": ("Energy by layer", plots.energy_by_layer(report)),
        "rates": ("Firing rates by depth", plots.firing_rates(report)),
        "counts": ("Spike counts by depth", plots.count_histograms(report)),
    }
    if not isinstance(network, Unfolded):
        figures |= _pictures_of_bundle(name, network, report, batch)
    for file, (_, figure) in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        write_atomically(out / f"{file}.png", picture.getvalue())
    text = page(f"Energy of {name}", facts, sections, dict(figures.values()), conventions.__doc__ or "")
    write_atomically(out / "energy.html", text)


def _pictures_of_bundle(
    name: str, bundle: "Bundle", report: "Report", batch: Any
) -> "dict[str, tuple[str, Figure]]":
    """Captions and pictures of what the integer form computes for some images."""
    import jax
    import numpy as np

    from qsdt_jax.deploy.bundle import bundle_bytes
    from qsdt_jax.deploy.detector import FoldedDetector
    from qsdt_jax.deploy.integer import IntegerArithmetic
    from qsdt_jax.deploy.interpreter import interpret
    from qsdt_jax.energy import plots

    figures = {}
    inputs = [np.asarray(batch[name])[:SHOWN] for name in ("image", "size") if name in batch]
    images = inputs[0]
    # Of a detector the part that sees the image.
    program = bundle.program.pyramid if isinstance(bundle.program, FoldedDetector) else bundle.program
    values = jax.device_get(
        jax.jit(lambda program, *inputs: interpret(program, inputs[0], IntegerArithmetic(), *inputs[1:]))(
            program, *inputs
        )
    )
    if "top1" in report.activity.metrics:  # As the quoted ones have.
        figures["bubbles"] = (
            "Accuracy, energy and size (area). Grey: quoted, on ImageNet-1K, each under its own convention; "
            "accuracies on other data cannot be compared with theirs",
            plots.accuracy_energy_size(
                report, Path(name.split(",")[0]).name, sum(bundle_bytes(bundle).values())
            ),
        )
    if images.ndim == 4 and images.shape[-1] in (1, 3):
        seen = np.clip(images * np.array(bundle.std, np.float32) + np.array(bundle.mean, np.float32), 0, 1)
        figures["attention"] = (
            "Share of attention that each token receives, q k^T summed over queries and heads",
            plots.attention_maps(program, values, seen),
        )
    neurons = [name for name in report.activity.histograms if name in values and values[name].ndim == 4]
    chosen = neurons[:: max(1, len(neurons) // RASTERS)][:RASTERS]
    figures["spikes"] = (
        "Spikes of the first image in the virtual time steps, at the middle pixel",
        plots.spike_rasters(program, values, chosen),
    )
    return figures
