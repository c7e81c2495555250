"""From a configuration to the objects of the library, in one place, every value checked on the way."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from qsdt_jax.assemble.data import build_data, input_shape
from qsdt_jax.assemble.defaults import base_config, check_config
from qsdt_jax.bounds import STEPS_OF_A_RUN
from qsdt_jax.data.classes import named, require_same_classes
from qsdt_jax.data.pipeline import evaluation_batches, training_batches
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.memory import require_memory
from qsdt_jax.models import Classifier, QSDTransformer
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.train.optimizer import adamw, lamb, warmup_cosine, warmup_within
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.run import Run
from qsdt_jax.workdir.workdir import TRAINING

REFERENCE_BATCH = 256  # Images per step that a learning rate is given for.
OPTIMIZERS = {"lamb": lamb, "adamw": adamw}
KEYS_OF_PARALLEL = {
    "mode": "parallel.mode",
    "fsdp": "parallel.fsdp",
    "batch_size": "batch_size",
    "norm_group": "model.norm_group",
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


def build_run(config: ml_collections.ConfigDict) -> Run:
    """The training run that a configuration describes.

    Raises:
      UserError: a value out of range, or data that cannot be read.
    """
    check_config(config)
    data = build_data(config)
    training, test, preprocess = data.training, data.test, data.preprocess
    require_same_classes(test.class_names, named(TRAINING, training.class_names), what="the test split")
    _check_batch(config, len(training))
    parallel = build_parallel(config)
    evaluation_batch = parallel.evaluation_batch_size(config.eval.batch_size)
    for key, size in (("batch_size", config.batch_size), ("eval.batch_size", evaluation_batch)):
        require_memory(4 * size * math.prod(data.input_shape), f"the images of config.{key}={size}")
    epoch = len(training) // config.batch_size
    total_steps = config.epochs * epoch
    if total_steps > STEPS_OF_A_RUN:
        raise UserError(
            f"config.epochs={config.epochs} of {epoch:,} steps are {total_steps:,}; "
            f"expected at most {STEPS_OF_A_RUN:,}"
        )
    schedule = _schedule(
        config.optimizer.learning_rate * config.batch_size / REFERENCE_BATCH,
        warmup_within(config.optimizer.warmup_epochs * epoch, total_steps),
        total_steps,
    )
    optimizer = build_optimizer(config, schedule)
    profile_steps = _profile_steps(config, total_steps)
    return Run(
        config=plain(config),
        defaults=plain(base_config()),
        task=build_task(config, len(training.class_names)),  # Last, because a network is traced.
        class_names=training.class_names,
        optimizer=optimizer,
        schedule=schedule,
        training_data=lambda first_step: training_batches(
            training,
            preprocess.train,
            seed=config.seed,
            batch_size=config.batch_size,
            first_step=first_step,
            workers=config.data.workers,
            rows=parallel.rows(config.batch_size, config.accumulate),
        ),
        evaluation_data=functools.partial(
            evaluation_batches,
            test,
            preprocess.evaluate,
            batch_size=evaluation_batch,
            workers=config.data.workers,
            rows=parallel.rows(evaluation_batch),
        ),
        training_images=len(training),
        evaluation_images=len(test),
        total_steps=total_steps,
        batch_size=config.batch_size,
        log_every=config.log.every_steps,
        eval_every=max(1, round(min(config.eval.every_epochs * epoch, total_steps))),
        save_every=config.checkpoint.every_steps,
        seed=config.seed,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
        parallel=parallel,
        profile_steps=profile_steps,
    )


def build_parallel(config: ml_collections.ConfigDict) -> Parallel:
    """The devices and how they share a batch; raises UserError where it does not divide over them."""
    try:
        parallel = Parallel(mode=config.parallel.mode, fsdp=config.parallel.fsdp)
        parallel.check_batch(config.batch_size, config.accumulate, config.model.norm_group)
    except UserError as error:  # It begins with the name of a value, for which a configuration has a key.
        name, _, rest = str(error).partition("=")
        raise UserError(f"config.{KEYS_OF_PARALLEL[name]}={rest}") from None
    return parallel


def build_model(config: ml_collections.ConfigDict, num_classes: int) -> Classifier:
    """The classifier of a configuration.

    Raises:
      UserError: a value out of range.
    """
    fields = plain(config.model)
    dtype = DTYPES[fields.pop("dtype")]
    bits_rules = _bits_rules(fields.pop("bits_rules"))
    real = jnp.float64 if dtype is jnp.float64 else jnp.float32
    model = QSDTransformer(
        **{**fields, "channels": tuple(config.model.channels)},
        bits_rules=bits_rules,
        num_classes=num_classes,
        in_channels=config.data.channels,
        dtype=dtype,
        param_dtype=real,
    )
    height, width = config.data.image_size
    batch = config.model.norm_group or 1
    image = jax.ShapeDtypeStruct((batch, height, width, config.data.channels), real)
    try:  # The network checks its own values; no array is made here.
        shapes = jax.eval_shape(functools.partial(model.init, train=True), jax.random.key(0), image)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from None
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    require_memory(held, "the weights of config.model")
    return model


def _bits_rules(rules: Sequence[Any]) -> tuple[BitsRule, ...]:
    """Of pairs, whose types the flag parser does not check."""
    for rule in rules:
        if not (isinstance(rule, tuple | list) and [type(part) for part in rule] == [str, int]):
            raise UserError(f"config.model.bits_rules has {rule!r}; expected pairs like ('head', 8)")
    try:
        return tuple(BitsRule(pattern=pattern, bits=bits) for pattern, bits in rules)
    except ValueError as error:
        raise UserError(f"config.model.bits_rules: {error}") from None


def build_task(config: ml_collections.ConfigDict, num_classes: int) -> Classification:
    """The task of a configuration; raises UserError as `build_model` does."""
    return Classification(
        model=build_model(config, num_classes),
        image_shape=input_shape(config),
        label_smoothing=config.loss.label_smoothing,
        mixup_alpha=config.data.mixup,
        cutmix_alpha=config.data.cutmix,
    )


def build_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser."""
    optimizer = config.optimizer
    return _optimizer(optimizer.name, schedule, optimizer.weight_decay, optimizer.clip_norm)


_schedule = functools.lru_cache(maxsize=1)(warmup_cosine)


@functools.lru_cache(maxsize=1)
def _optimizer(
    name: str, schedule: optax.Schedule, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """One object, like the schedule, for equal settings: runs one after the other share its programs."""
    return OPTIMIZERS[name](schedule, weight_decay=weight_decay, clip_norm=clip_norm)


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A configuration as nested dicts, lists, numbers and strings."""
    return config.to_dict()


def fit_step(config: ml_collections.ConfigDict) -> list[str]:
    """Makes a configuration fit for looking at its step alone; what gives way, for the reader.

    Raises:
      UserError: the batch cannot be cut as `accumulate` says.
    """
    batch, parts, group, remarks = config.batch_size, config.accumulate, config.model.norm_group, []
    if batch % parts:
        raise UserError(f"config.accumulate={parts} does not divide the batch of {batch} images")
    if group > 0 and batch // parts % group:
        config.model.norm_group = 0
        remarks.append(f"norm_group {group} does not divide the batch: statistics of the whole batch here")
    if config.distill.teacher:
        config.distill.teacher = ""
        remarks.append("without the teacher, which takes time and memory of its own")
    return remarks


def _profile_steps(config: ml_collections.ConfigDict, total_steps: int) -> tuple[int, int] | None:
    text = config.profile.steps
    if not text:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"config.profile.steps={text!r} must be FIRST-LAST, like 10-15")
    if int(last) > total_steps:
        raise UserError(f"config.profile.steps={text!r}: the run has only {total_steps} steps")
    return int(first), int(last)


def _check_batch(config: ml_collections.ConfigDict, images: int) -> None:
    """Refuses a batch that the data cannot fill or that does not divide as it should."""
    batch, parts, group = config.batch_size, config.accumulate, config.model.norm_group
    if images < batch:
        raise UserError(f"config.batch_size={batch} exceeds the {images} training images")
    if batch % parts:
        raise UserError(f"config.accumulate={parts} does not divide config.batch_size={batch}")
    if group and batch // parts % group:
        rows = batch // parts
        raise UserError(f"config.model.norm_group={group} does not divide the {rows} images of a micro-batch")
