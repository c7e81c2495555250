"""From a configuration to the objects of the library, in one place, every value checked on the way."""

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import optax

from qsdt_jax.assemble.data import build_data, class_names_of
from qsdt_jax.assemble.shapes import largest_input
from qsdt_jax.assemble.split import Split
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.bounds import STEPS_OF_A_RUN
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.configuration.rules import is_finite
from qsdt_jax.data.classes import named
from qsdt_jax.data.dense.orientation import steps_per_epoch
from qsdt_jax.data.pipeline import training_batches
from qsdt_jax.data.sources import Example
from qsdt_jax.errors import OutOfRange, UserError
from qsdt_jax.memory import require_memory
from qsdt_jax.tasks.task import Task
from qsdt_jax.train.optimizer import RateRule, adamw, chained, lamb, scale_by_rate_rules
from qsdt_jax.train.parallel import Parallel, check_parts
from qsdt_jax.train.run import Run
from qsdt_jax.train.schedules import warmup_cosine, warmup_multistep, warmup_polynomial, warmup_within
from qsdt_jax.workdir.workdir import TRAINING

REFERENCE_BATCH = 256  # Images per step that a learning rate is given for.
OPTIMIZERS = {"lamb": lamb, "adamw": adamw}
KEYS_OF_PARALLEL = {
    "mode": "parallel.mode",
    "fsdp": "parallel.fsdp",
    "batch_size": "batch_size",
    "accumulate": "accumulate",
    "norm_group": "model.norm_group",
}


def build_run(config: ml_collections.ConfigDict) -> Run:
    """The training run that a configuration describes.

    Raises:
      UserError: a value out of range, or data that cannot be read.
    """
    check_config(config)
    data = build_data(config)
    training, preprocess = data.training, data.preprocess
    example = preprocess.train(training[0], np.random.default_rng(0))  # First, data of another task.
    parallel = build_parallel(config)
    names = class_names_of(training)
    classes = None if names is None else named(TRAINING, names)
    splits = {
        name: Split(config, name, classes, parallel=parallel, source=source, preprocess=preprocess)
        for name, source in data.evaluated.items()
    }
    if data.training_images < config.batch_size:
        raise UserError(
            f"config.batch_size={config.batch_size} exceeds the {data.training_images} training images"
        )
    evaluation_batch = max(split.batch_size for split in splits.values())
    for key, size, shape in (
        ("batch_size", config.batch_size, data.input_shape),
        ("eval.batch_size", evaluation_batch, largest_input(data.input_shape, preprocess)),
    ):
        require_memory(4 * size * math.prod(shape), f"the images of config.{key}={size}")
    epoch = data.training_images // config.batch_size
    if data.training_groups is not None:
        epoch = steps_per_epoch(data.training_groups, config.batch_size)
        if not epoch:
            landscape, portrait = map(len, data.training_groups)
            raise UserError(
                f"config.batch_size={config.batch_size} exceeds both the {landscape:,} images that are at "
                f"least as wide as tall and the {portrait:,} others"
            )
    total_steps = config.steps or config.epochs * epoch
    if total_steps > STEPS_OF_A_RUN:
        raise UserError(
            f"config.epochs={config.epochs} of {epoch:,} steps are {total_steps:,}; "
            f"expected at most {STEPS_OF_A_RUN:,}"
        )
    schedule = build_schedule(config, epoch, total_steps)
    optimizer = build_optimizer(config, schedule)
    profile_steps = _profile_steps(config, total_steps)
    task = build_task(config, names)  # Late, because a network is traced.
    _require_keys(config, task, example)
    return Run(
        config=plain(config),
        defaults=plain(base_config()),
        task=task,
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
            groups=data.training_groups,
        ),
        evaluation_data={name: split.host_batches for name, split in splits.items()},
        truths={name: split.truth for name, split in splits.items()},
        normalization=preprocess.normalization,
        training_images=data.training_images,
        evaluation_images=sum(split.images for split in splits.values()),
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


def _require_keys(config: ml_collections.ConfigDict, task: Task, example: Example) -> None:
    """Refuses data whose examples lack something that the task learns from."""
    needed = task.batch_shapes(1)
    if missing := [key for key in needed if key not in example]:
        raise UserError(
            f"config.task.name={config.task.name!r} learns from {', '.join(needed)}; the "
            f"examples of config.data.source={config.data.source!r} have no {' and no '.join(missing)}"
        )


def build_parallel(config: ml_collections.ConfigDict, devices: tuple[Any, ...] = ()) -> Parallel:
    """The devices, all there are unless given, and how they share a batch.

    Raises:
      UserError: the batch does not divide over them.
    """
    with _told_by_key():
        parallel = Parallel(mode=config.parallel.mode, fsdp=config.parallel.fsdp, devices=devices)
        parallel.check_batch(config.batch_size, config.accumulate, config.model.norm_group)
        return parallel


@contextlib.contextmanager
def _told_by_key() -> Iterator[None]:
    """Names the key of what `train.parallel` refuses."""
    try:
        yield
    except OutOfRange as error:
        raise UserError(f"config.{KEYS_OF_PARALLEL[error.name]}={error.told}") from None


def build_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser; raises UserError where it has no place for what is asked."""
    optimizer = config.optimizer
    return _optimizer(
        optimizer.name,
        schedule,
        optimizer.weight_decay,
        optimizer.clip_norm,
        optimizer.decay_vectors,
        _rate_rules(optimizer.rate_rules),
    )


def warmup_of(optimizer: Mapping[str, Any], epoch: int) -> float:
    """The warm-up in steps that the section "optimizer" asks for, with epochs of so many steps."""
    return optimizer["warmup_steps"] or optimizer["warmup_epochs"] * epoch


def drops_of(optimizer: Mapping[str, Any], total_steps: int) -> tuple[int, ...]:
    """The first steps of the smaller rates that the section "optimizer" asks for, in a run of so many."""
    return tuple(round(share * total_steps) for share in optimizer["drops"])


def build_schedule(config: ml_collections.ConfigDict, epoch: int, total_steps: int) -> optax.Schedule:
    """The learning rate by step, of a run of so many steps in epochs of so many."""
    peak = config.optimizer.learning_rate * config.batch_size / REFERENCE_BATCH
    warmup = warmup_within(warmup_of(config.optimizer, epoch), total_steps)
    if config.optimizer.schedule == "cosine":
        return _cosine(peak, warmup, total_steps, config.optimizer.final_learning_rate)
    if config.optimizer.schedule == "multistep":
        return _multistep(peak, warmup, drops_of(config.optimizer, total_steps))
    if total_steps < 2:
        raise UserError(f"a polynomial schedule needs at least 2 steps, this run has {total_steps}")
    return _polynomial(peak, warmup, total_steps, config.optimizer.power)


# One object for equal settings: runs one after the other share its programs.
_cosine = functools.lru_cache(maxsize=1)(warmup_cosine)
_multistep = functools.lru_cache(maxsize=1)(warmup_multistep)
_polynomial = functools.lru_cache(maxsize=1)(warmup_polynomial)


@functools.lru_cache(maxsize=1)
def _optimizer(
    name: str,
    schedule: optax.Schedule,
    weight_decay: float,
    clip_norm: float,
    decay_vectors: bool,
    rate_rules: tuple[RateRule, ...],
) -> optax.GradientTransformation:
    fields = {"weight_decay": weight_decay, "clip_norm": clip_norm}
    if decay_vectors:
        if name != "adamw":
            raise UserError(f"config.optimizer.decay_vectors=True needs adamw, not {name}")
        fields["decay_vectors"] = True
    optimizer = OPTIMIZERS[name](schedule, **fields)
    return chained(optimizer, scale_by_rate_rules(rate_rules)) if rate_rules else optimizer


def _rate_rules(rules: Sequence[Any]) -> tuple[RateRule, ...]:
    """Of pairs, whose types the flag parser does not check."""
    for rule in rules:
        pair = isinstance(rule, tuple | list) and len(rule) == 2
        if not (pair and isinstance(rule[0], str) and is_finite(rule[1]) and rule[1] >= 0):
            raise UserError(f"config.optimizer.rate_rules has {rule!r}; expected pairs like ('head/.*', 2.0)")
        try:
            re.compile(rule[0])
        except re.error as error:
            raise UserError(f"config.optimizer.rate_rules: {rule[0]!r} is no pattern: {error}") from None
    return tuple((pattern, float(factor)) for pattern, factor in rules)


def plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A configuration as nested dicts, lists, numbers and strings."""
    return config.to_dict()


def fit_step(config: ml_collections.ConfigDict) -> list[str]:
    """Makes a configuration fit for looking at its step alone; what gives way, for the reader.

    Raises:
      UserError: the batch cannot be cut as `accumulate` says.
    """
    batch, parts, group, remarks = config.batch_size, config.accumulate, config.model.norm_group, []
    with _told_by_key():
        check_parts(batch, parts, norm_group=0)
    if group > 0 and batch // parts % group:
        config.model.norm_group = 0
        remarks.append(f"norm_group {group} does not divide the batch: statistics of the whole batch here")
    if config.data.portrait:
        config.data.portrait = False
        remarks.append("all batches of one shape, which tall images are made to fit")
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
