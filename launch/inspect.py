"""parameters, operations and memory of a configuration, without training and without data."""

import functools
import itertools
import sys
import time
from collections.abc import Iterable, Iterator

import jax
import ml_collections
from absl import flags

from launch.flags import DEFINED_OFTEN, define_config
from qsdt_jax import bounds
from qsdt_jax.assemble.build import build_optimizer, build_parallel, fit_step
from qsdt_jax.assemble.data import build_preprocess, build_source, class_names_of
from qsdt_jax.assemble.examples import ANNOTATED, LABELLED, OBJECTS
from qsdt_jax.assemble.network import numerics_of, require_network
from qsdt_jax.assemble.shapes import largest_input
from qsdt_jax.assemble.tasks import build_task, task_factory
from qsdt_jax.data.classes import numbers
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.activations import kept_bytes, largest_activation
from qsdt_jax.inspect.gpu_compiler import compiled_for, compiler_is_installed, devices_of
from qsdt_jax.inspect.lowered import as_bytes, lowered_inference, lowered_train_step
from qsdt_jax.inspect.modules import COLUMNS, MEGABYTE, block_rows, layer_rows, totals
from qsdt_jax.inspect.plan import force_devices, on_devices
from qsdt_jax.inspect.report import report
from qsdt_jax.inspect.targets import H100, TARGETS, Target
from qsdt_jax.models.operations import LayerOperations, layer_operations
from qsdt_jax.models.told import weights_told
from qsdt_jax.tasks.operations import macs_of, operations_of
from qsdt_jax.tasks.task import Task, Variables
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.state import TrainState
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
TARGET = flags.DEFINE_enum(
    "target",
    None,
    list(TARGETS),
    "compiles inference and train step for that GPU, which does not have to be there (minutes)",
    **DEFINED_OFTEN,
)
DEVICES = flags.DEFINE_integer(
    "devices",
    None,
    "compiles for that many devices, none of which has to be there (minutes): for H100s unless --target "
    "says otherwise, by an estimate of the CPU's compiler where that of GPUs is not installed",
    lower_bound=1,
    upper_bound=bounds.WORKERS,
    **DEFINED_OFTEN,
)
MEMORY_GB = flags.DEFINE_float(
    "memory_gb",
    None,
    "of one device: asks for the estimate, by default with 80",
    lower_bound=0.0,
    **DEFINED_OFTEN,
)
PEAK_TFLOPS = flags.DEFINE_float(
    "peak_tflops",
    None,
    "of one device in the dtype of the products: asks for the estimate, by default with 989 (NVIDIA says so "
    "of an H100 SXM in bfloat16)",
    lower_bound=0.0,
    **DEFINED_OFTEN,
)

ASSUMED_CLASSES = {LABELLED: 1000, ANNOTATED: 150, OBJECTS: 80}


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
    target = _target()
    parallel = _parallel(config, target)  # Before all that takes seconds.
    classes, origin = _class_count(config)
    task = build_task(config, None if classes is None else numbers(classes))
    numerics = numerics_of(require_network(task.model, "the configuration"))
    state = _abstract_state(config, task)
    traced = layer_operations(task.model, tuple(config.data.image_size))
    layers, training_macs = operations_of(task, traced), macs_of(task, traced, train=True)

    height, width = config.data.image_size
    outputs = "" if task.class_names is None else f"{len(task.class_names)} classes ({origin}), "
    levels = 0 if numerics.neuron is None else numerics.neuron.levels
    print(
        f"{height}x{width}x{config.data.channels} images, {outputs}"
        f"{weights_told(numerics.bits, numerics.bits_rules)}, D = {levels}, T = {numerics.timesteps}\n"
    )
    rows = layer_rows(layers, state.variables) if LAYERS.value else block_rows(layers, state.variables)
    print(_aligned([COLUMNS, *rows]) + "\n")
    print(_aligned(totals(layers, state.variables, batch, training_macs)) + "\n")
    if parallel is not None and target is not None:
        for text in itertools.chain(remarks, _reports(config, task, state, parallel, target)):
            print(text, flush=True)
        return
    if parallel is not None:
        print(
            f"train step on {len(parallel.devices)} devices, batch {batch}, mode {config.parallel.mode}",
            *remarks,
            sep="\n",
        )
        rows = on_devices(
            _train_step(config, task),
            state,
            task.batch_shapes(batch),
            parallel,
            6 * training_macs,
            memory_gb=80.0 if MEMORY_GB.value is None else MEMORY_GB.value,
            peak_tflops=989.0 if PEAK_TFLOPS.value is None else PEAK_TFLOPS.value,
        )
        print(_aligned(rows))
        return
    print(f"memory on one device, batch {batch}", *remarks, sep="\n")
    print(_aligned(_memory(config, task, state, layers, batch)))


def _target() -> Target | None:
    """The GPU to compile for, if there is one."""
    described = MEMORY_GB.value is not None or PEAK_TFLOPS.value is not None
    if TARGET.value is not None:
        if described:
            raise UserError(
                f"--target={TARGET.value} has its memory and peak; leave --memory_gb, --peak_tflops"
            )
        return TARGETS[TARGET.value]
    return H100 if DEVICES.value is not None and compiler_is_installed() and not described else None


def _parallel(config: ml_collections.ConfigDict, target: Target | None) -> Parallel | None:
    """The devices to compile for, if they are given."""
    if DEVICES.value is None and target is None:
        return None
    if COMPILE.value:
        flag = "devices" if target is None or TARGET.value is None else "target"
        raise UserError(f"--{flag} compiles the train step already; leave --compile, which is for one device")
    count = DEVICES.value or 1
    if target is not None:
        return build_parallel(config, devices_of(target, count))
    force_devices(count)
    return build_parallel(config)


def _reports(
    config: ml_collections.ConfigDict, task: Task, state: TrainState, parallel: Parallel, target: Target
) -> Iterator[str]:
    """What the compiler makes of inference and train step, each as soon as it is known."""
    batch, preprocess = config.batch_size, build_preprocess(config)
    normalization, data = preprocess.normalization, task.batch_shapes(config.batch_size)
    image, count = data["image"], len(parallel.devices)
    shape = largest_input(image.shape[1:], preprocess)
    evaluated = {**data, "image": jax.ShapeDtypeStruct((batch, *shape), image.dtype)}
    step = functools.partial(_train_step(config, task), normalization=normalization)
    programs = {
        "inference": lambda: lowered_inference(
            task, state.variables, as_bytes(evaluated, normalization), normalization, parallel
        ),
        "train step": lambda: lowered_train_step(step, state, as_bytes(data, normalization), parallel),
    }
    for name, lower in programs.items():
        rows = report(compiled_for(target, name, lower()), target, batch, count)
        yield f"{name} on {count} x {target.title}, batch {batch}\n{_aligned(rows)}\n"


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
    activation = largest_activation(numerics_of(task.model), layers, images.shape[0])
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
