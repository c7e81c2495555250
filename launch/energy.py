"""firing rates, operations and energy of a trained network under several conventions, as table and report."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict

from launch.flags import DEFINED_OFTEN
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.deploy.bundle import Bundle
    from qsdt_jax.energy.report import Report

WORKDIR = flags.DEFINE_string("workdir", None, "directory of a run or an import", **DEFINED_OFTEN)
BUNDLE = flags.DEFINE_string(
    "bundle", None, "file of an exported network; takes its data from --workdir", **DEFINED_OFTEN
)
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "train"], "split of the data", **DEFINED_OFTEN)
IMAGES = flags.DEFINE_integer(
    "images", None, "images to measure on, from the start of the split (default: all)", lower_bound=1,
    **DEFINED_OFTEN,
)  # fmt: skip
OUT = flags.DEFINE_string(
    "out", None, "folder for energy.csv, energy.html and the pictures (default: energy in the workdir)",
    **DEFINED_OFTEN,
)  # fmt: skip

SHOWN = 8  # Images with attention maps.
RASTERS = 5


def main() -> None:
    """Measures as the flags say."""
    from launch.deployed import bundle_of
    from launch.split import Split
    from launch.trained import load_trained
    from qsdt_jax.deploy.bundle import read_bundle
    from qsdt_jax.energy.rates import measure_activity
    from qsdt_jax.energy.report import console_table, csv_table, make_report, verdicts
    from qsdt_jax.files import write_atomically

    if WORKDIR.value is None:
        raise UserError("energy needs --workdir DIR, whose configuration names the data")
    trained = load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    bundle = read_bundle(BUNDLE.value) if BUNDLE.value else bundle_of(trained)
    if BUNDLE.value:
        _check_inputs(bundle, trained.config)
    out = Path(OUT.value or Path(WORKDIR.value) / "energy")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None

    split = Split(trained.config, SPLIT.value, bundle.class_names, IMAGES.value)
    activity = measure_activity(bundle.program, split.batches("measured"))
    report = make_report(bundle.program, bundle.image_size, activity)
    name = str(BUNDLE.value or f"{trained.workdir}, step {trained.step}")
    facts = _facts(name, report)
    print("\n".join([*facts, "", console_table(report), "", *verdicts(report)]))
    write_atomically(out / "energy.csv", csv_table(report))
    _draw(out, name, facts, bundle, report, next(split.batches("measured")))
    print(f"{out}: energy.csv, energy.html and its pictures as PNG")


def _check_inputs(bundle: "Bundle", config: ConfigDict) -> None:
    """Refuses a bundle for other inputs than the data of the workdir give."""
    data, program = config.data, bundle.program
    found, given = (bundle.image_size, program.in_channels), (tuple(data.image_size), data.channels)
    if data.events:  # An image is shown in as many time steps as the network has.
        found, given = (*found, program.neuron.timesteps), (*given, config.model.timesteps)
    if found != given:
        names = "size, channels and time steps" if data.events else "size and channels"
        raise UserError(
            f"{BUNDLE.value} takes inputs of {names} {found}, but the data of the workdir give {given}"
        )


def _facts(name: str, report: "Report") -> list[str]:
    from qsdt_jax.energy.report import GIGA
    from qsdt_jax.train.provenance import provenance

    activity = report.activity
    sizes = report.model_bytes
    stored = sizes["weights"] + sizes["scales and shifts"]
    return [
        f"{name}: {report.bits}-bit weights, D = {report.levels}, T = {report.timesteps}",
        f"{activity.images:,} images of the {SPLIT.value} split, top-1 {activity.metrics['top1']:.2f} %",
        f"{report.macs / GIGA:.4g} GMACs, as spikes {report.additions / GIGA:.4g} G additions and "
        f"{report.multiplications / GIGA:.4g} G multiply-accumulates of real values",
        f"{stored / 1e6:.3f} MB stored, {sizes['as float32'] / 1e6:.3f} MB as float32",
        f"commit {provenance()['commit']}",
    ]


def _draw(out: Path, name: str, facts: list[str], bundle: "Bundle", report: "Report", batch: Any) -> None:
    import jax
    import numpy as np

    from qsdt_jax.deploy.integer import IntegerArithmetic
    from qsdt_jax.deploy.interpreter import interpret
    from qsdt_jax.energy import conventions, plots
    from qsdt_jax.energy.page import page
    from qsdt_jax.files import write_atomically

    program, images = bundle.program, batch["image"][:SHOWN]
    values = jax.device_get(
        jax.jit(lambda program, images: interpret(program, images, IntegerArithmetic()))(program, images)
    )
    figures = {
        "totals": ("Energy of an image under each convention", plots.energy_by_convention(report)),
        "layers": ("Energy by layer", plots.energy_by_layer(report)),
        "rates": ("Firing rates by depth", plots.firing_rates(report)),
        "counts": ("Spike counts by depth", plots.count_histograms(report)),
        "bubbles": (
            "Accuracy, energy and size (area). Grey: quoted, on ImageNet-1K, each under its own convention; "
            "accuracies on other data cannot be compared with theirs",
            plots.accuracy_energy_size(report, Path(name.split(",")[0]).name),
        ),
    }
    if images.ndim == 4 and images.shape[-1] in (1, 3):
        seen = np.clip(images * np.array(bundle.std, np.float32) + np.array(bundle.mean, np.float32), 0, 1)
        figures["attention"] = (
            "Share of attention that each token receives, q k^T summed over queries and heads",
            plots.attention_maps(program, values, seen),
        )
    neurons = [name for name in report.activity.histograms if values[name].ndim == 4]
    chosen = neurons[:: max(1, len(neurons) // RASTERS)][:RASTERS]
    figures["spikes"] = (
        "Spikes of the first image in the virtual time steps, at the middle pixel",
        plots.spike_rasters(program, values, chosen),
    )
    for file, (_, figure) in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        write_atomically(out / f"{file}.png", picture.getvalue())
    text = page(f"Energy of {name}", facts, report, dict(figures.values()), conventions.__doc__ or "")
    write_atomically(out / "energy.html", text)
