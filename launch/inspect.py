"""parameters, operations and memory of a configuration, without training and without data."""

import functools
import sys
import time
from collections.abc import Iterable

import jax
import ml_collections
from absl import flags

from launch.flags import DEFINED_OFTEN, define_config
from qsdt_jax import bounds
from qsdt_jax.assemble.build import build_optimizer, build_parallel, fit_step
from qsdt_jax.assemble.data import build_preprocess, build_source, class_names_of
from qsdt_jax.assemble.examples import ANNOTATED, LABELLED, OBJECTS
from qsdt_jax.assemble.network import require_backbone
from qsdt_jax.assemble.shapes import largest_input
from qsdt_jax.assemble.tasks import build_task, task_factory
from qsdt_jax.assemble.told import amount, weights_told
from qsdt_jax.data.classes import numbers
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.activations import kept_bytes, largest_activation
from qsdt_jax.inspect.plan import force_devices, on_devices
from qsdt_jax.models.classifier import HEADS
from qsdt_jax.models.detector import OUTPUT_LAYERS as DETECTOR_OUTPUTS
from qsdt_jax.models.operations import LayerOperations, layer_operations
from qsdt_jax.models.segmenter import OUTPUT_LAYER as SEGMENTER_OUTPUT
from qsdt_jax.tasks.operations import macs_of, operations_of
from qsdt_jax.tasks.task import Task, Variables
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.state import TrainState, parameter_count
from qsdt_jax.train.step import initial_state, train_step

CONFIG = define_config()
BATCH = flags.DEFINE_integer(
    "batch",
    None,
    "images per step, for the memory; the config's batch_size unless given",
    lower_bound=1,
    upper_bound=bounds.BATCH,
    **DEFINED_OFTEN,
)
NUM_CLASSES = flags.DEFINE_integer(
    "num_classes",
    None,
    "classes of the head; those of the config's data unless given",
    lower_bound=1,
    upper_bound=bounds.CLASSES,
    **DEFINED_OFTEN,
)
LAYERS = flags.DEFINE_bool("layers", False, "lists every layer and not only the blocks", **DEFINED_OFTEN)
COMPILE = flags.DEFINE_bool(
    "compile", False, "compiles both steps for the memory that they take (minutes)", **DEFINED_OFTEN
)
DEVICES = flags.DEFINE_integer(
    "devices",
    None,
    "compiles the train step for that many devices, none of which has to be there (minutes)",
    lower_bound=1,
    upper_bound=bounds.WORKERS,
    **DEFINED_OFTEN,
)
MEMORY_GB = flags.DEFINE_float(
    "memory_gb", 80.0, "of one device, with --devices", lower_bound=0.0, **DEFINED_OFTEN
)
PEAK_TFLOPS = flags.DEFINE_float(
    "peak_tflops",
    989.0,
    "of one device in the dtype of the products, with --devices (NVIDIA says 989 of an H100 SXM in bfloat16)",
    lower_bound=0.0,
    **DEFINED_OFTEN,
)

ASSUMED_CLASSES = {LABELLED: 1000, ANNOTATED: 150, OBJECTS: 80}
MEGABYTE = 1e6
OUTPUT_LAYERS = (*HEADS, SEGMENTER_OUTPUT, *DETECTOR_OUTPUTS)
COLUMNS = ("module", "output", "parameters", "bits", "MACs (M)", "input")


def main() -> None:
    """Prints the table of modules and the totals."""
    config = CONFIG.value
    if config is None:
        raise UserError("inspect needs --config FILE")
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if BATCH.value is not None:
        config.batch_size = BATCH.value
    batch, remarks = config.batch_size, fit_step(config)
    parallel = _parallel(config)  # Before all that takes seconds.
    classes, origin = _class_count(config)
    task = build_task(config, None if classes is None else numbers(classes))
    require_backbone(task.model, "the configuration")
    state = _abstract_state(config, task)
    traced = layer_operations(task.model, tuple(config.data.image_size))
    layers, training_macs = operations_of(task, traced), macs_of(task, traced, train=True)

    height, width = config.data.image_size
    outputs = "" if task.class_names is None else f"{len(task.class_names)} classes ({origin}), "
    backbone = task.model.backbone
    print(
        f"{height}x{width}x{config.data.channels} images, {outputs}"
        f"{weights_told(backbone.bits, backbone.bits_rules)}, "
        f"D = {config.model.levels}, T = {config.model.timesteps}\n"
    )
    rows = layer_rows(layers, state.variables) if LAYERS.value else block_rows(layers, state.variables)
    print(_aligned([COLUMNS, *rows]) + "\n")
    print(_aligned(totals(layers, state.variables, batch, training_macs)) + "\n")
    if parallel is not None:
        print(
            f"train step on {len(parallel.devices)} devices, batch {batch}, mode {config.parallel.mode}",
            *remarks,
            sep="\n",
        )
        step, data = _train_step(config, task), task.batch_shapes(batch)
        rows = on_devices(
            step,
            state,
            data,
            parallel,
            6 * training_macs,
            memory_gb=MEMORY_GB.value,
            peak_tflops=PEAK_TFLOPS.value,
        )
        print(_aligned(rows))
        return
    print(f"memory on one device, batch {batch}", *remarks, sep="\n")
    print(_aligned(_memory(config, task, state, layers, batch)))


def _parallel(config: ml_collections.ConfigDict) -> Parallel | None:
    """The devices to compile for, if they are given."""
    if DEVICES.value is None:
        return None
    if COMPILE.value:
        raise UserError("--devices compiles the train step already; leave --compile, which is for one device")
    force_devices(DEVICES.value)
    return build_parallel(config)


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


def _memory(
    config: ml_collections.ConfigDict,
    task: Task,
    state: TrainState,
    layers: list[LayerOperations],
    batch: int,
) -> list[tuple[str, str]]:
    """Rows (step, megabytes): a bound, or with --compile what the compiler reports.

    Where images are evaluated in arrays of other sizes than they are trained at, the largest has a row.
    """
    data = task.batch_shapes(batch)
    image = data["image"]
    shape = largest_input(image.shape[1:], build_preprocess(config))
    evaluated = jax.ShapeDtypeStruct((config.eval.batch_size, *shape), image.dtype)
    row = f"evaluation, {config.eval.batch_size} of {shape[0]}x{shape[1]}"
    if not COMPILE.value:
        # Of the training, all that waits for the backward pass.
        kept = kept_bytes(task, state.variables, task.batch_shapes(batch // config.accumulate))
        backward = _bytes(state) + _bytes(data)
        rows = [("inference", _of_inference(task, state.variables, layers, image))]
        if shape != image.shape[1:]:
            layers = layer_operations(task.model, (shape[0], shape[1]))
            rows.append((row, _of_inference(task, state.variables, layers, evaluated)))
        return [
            *rows,
            ("train step", _at_least(backward, "state and batch", kept, "kept for the backward pass")),
            ("", "estimates; --compile asks the compiler instead (a minute or two for size S)"),
        ]
    step = _train_step(config, task)
    infer = jax.jit(lambda variables, images: task.model.apply(variables, images))
    rows = [("inference", _compiled("inference", infer, state.variables, image))]
    if shape != image.shape[1:]:
        rows.append((row, _compiled("evaluation", infer, state.variables, evaluated)))
    return [
        *rows,
        ("train step", _compiled("train step", jax.jit(step, donate_argnums=0), state, data)),
    ]


def _of_inference(
    task: Task, variables: Variables, layers: list[LayerOperations], images: jax.ShapeDtypeStruct
) -> str:
    activation = largest_activation(task.model.backbone, layers, images.shape[0])
    known = _bytes(variables) + _bytes(images)
    return _at_least(known, "variables and images", activation, "the largest activations")


def _train_step(config: ml_collections.ConfigDict, task: Task) -> functools.partial:
    """The train step of a configuration, on one device unless its `shards` are given."""
    return functools.partial(
        train_step,
        task=task,
        optimizer=build_optimizer(config, _constant_rate),
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )


def _at_least(known: int, of_what: str, more: int, of_that: str) -> str:
    return (
        f"at least {(known + more) / MEGABYTE:,.0f} MB: {known / MEGABYTE:,.1f} MB {of_what}, "
        f"{more / MEGABYTE:,.1f} MB {of_that}"
    )


def _compiled(name: str, function, *arguments) -> str:
    """Compiles ahead of time and says what the program takes."""
    print(f"compiling the {name} ...", end=" ", file=sys.stderr, flush=True)
    start = time.monotonic()
    stats = function.lower(*arguments).compile().memory_analysis()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    if stats is None:
        return f"not reported by the {jax.default_backend()} backend"
    given, made = stats.argument_size_in_bytes, stats.output_size_in_bytes - stats.alias_size_in_bytes
    temporary = stats.temp_size_in_bytes
    return (
        f"{(given + made + temporary) / MEGABYTE:,.0f} MB on {jax.default_backend()}: "
        f"{given / MEGABYTE:,.1f} MB arguments, {temporary / MEGABYTE:,.1f} MB temporaries, "
        f"{made / MEGABYTE:,.1f} MB new output"
    )


def _abstract_state(config: ml_collections.ConfigDict, task: Task) -> TrainState:
    """The shapes of the train state."""
    optimizer = build_optimizer(config, _constant_rate)
    return jax.eval_shape(lambda: initial_state(task, optimizer, ema=config.ema_decay > 0))


def _constant_rate(step) -> float:
    """Stands for the schedule, whose length depends on the data; no size does."""
    return 1e-3


def _class_count(config: ml_collections.ConfigDict) -> tuple[int | None, str]:
    """The number of classes, None for data without, and where it comes from.

    Images that are not there count as ImageNet-1K, with annotations as ADE20K, with objects as COCO. Those of
    a segfolder have to be there: how many classes they have stands in its classes.txt alone.
    """
    if NUM_CLASSES.value is not None:
        return NUM_CLASSES.value, "--num_classes"
    try:
        names = class_names_of(build_source(config, "train"))
        return None if names is None else len(names), f"of the {config.data.source} data"
    except UserError:
        if config.data.source not in ("folder", "tfds", "ade20k", "coco"):
            raise
        assumed = ASSUMED_CLASSES.get(task_factory(config.task.name).examples, ASSUMED_CLASSES[LABELLED])
        return assumed, "assumed, the images are not there; --num_classes says otherwise"


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    """Columns of text; numbers stand right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [len(rows[0]) > 2 and i in (2, 3, 4) for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )
