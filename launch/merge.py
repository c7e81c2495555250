"""what merging RepConv and SepConv into single convolutions does to bits, size, operations and accuracy."""

from absl import flags

from launch.flags import DEFINED_OFTEN, define_path
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
WORKDIR = define_path("workdir", "directory of a run or an import")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "train"], "split of the data", **DEFINED_OFTEN)
IMAGES = flags.DEFINE_integer(
    "images", None, "images to measure on, from the start of the split (default: all)", lower_bound=1,
    **DEFINED_OFTEN,
)  # fmt: skip

MERGED_BITS = (32, 8, 4)


def main() -> None:
    """Prints one line for the network as it is, and one for each width of merged kernels."""
    from qsdt_jax.assemble.split import Split
    from qsdt_jax.deploy.merge import FloatArithmetic, merge
    from qsdt_jax.deploy.packing import layer_bytes
    from qsdt_jax.energy.rates import measure_activity
    from qsdt_jax.energy.report import MILLI_JOULE, make_report
    from qsdt_jax.loading.deployed import bundle_of
    from qsdt_jax.loading.trained import load_trained

    if WORKDIR.value is None:
        raise UserError("merge needs --workdir DIR")
    trained = load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    split = Split(trained.config, SPLIT.value, trained.classes, IMAGES.value)  # First: folding takes seconds.
    bundle = bundle_of(trained)
    program = bundle.require_program("merged form")
    metric = trained.task.metrics[0]
    score = f"{metric.title} {metric.unit}"
    print(f"{'':<20}{score:>9}{'MB':>10}{'weights':>13}{'additions':>15}{'real MACs':>14}{'mJ':>11}")
    for bits in (None, *MERGED_BITS):
        name = f"merged, {bits} bits" if bits else f"{'/'.join(map(str, program.bits))} bits, as trained"
        form = merge(program, bits) if bits else program
        activity = measure_activity(
            form, split.batches("measured"), trained.task, FloatArithmetic(), split.truth()
        )
        report = make_report(form, bundle.image_size, activity)
        print(
            f"{name:<20}{activity.metrics[metric.name]:>9{metric.form}}"
            f"{sum(sum(layer_bytes(layer)) for layer in form.layers) / 1e6:>10.3f}"
            f"{sum(layer.weights.size for layer in form.layers):>13,}{report.additions:>15,.0f}"
            f"{report.multiplications:>14,}{MILLI_JOULE * report.totals['as computed'].spiking:>11.5f}",
            flush=True,
        )
    print("mJ: convention `as computed` of `energy`. Merged kernels are rounded after training.")
