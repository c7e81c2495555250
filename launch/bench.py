"""step time, images/s and input wait, as JSON on stdout and as a table on stderr."""

import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from configs.base import base_config
from launch.build import (
    DTYPES,
    build_optimizer,
    build_preprocess,
    build_source,
    build_task,
)
from launch.flags import define_config
from qsdt_jax.data.pipeline import HostBatch, Preprocess, training_batches
from qsdt_jax.data.sources import FakeSource, Source
from qsdt_jax.errors import UserError
from qsdt_jax.models import SIZES
from qsdt_jax.models.operations import layer_operations
from qsdt_jax.train.classification import Classification
from qsdt_jax.train.loop import BATCHES_AHEAD
from qsdt_jax.train.preemption import Background
from qsdt_jax.train.provenance import provenance
from qsdt_jax.train.randomness import Purpose, key_for
from qsdt_jax.train.state import TrainState, create_state, parameter_count
from qsdt_jax.train.step import train_step

MODES = ("inference", "train", "input", "loop")
CONFIG = define_config()
SIZE = flags.DEFINE_enum("size", None, list(SIZES), "size of the network; without --config: S at 224, fake data")
BATCH = flags.DEFINE_integer(
    "batch", None, "images per step; the config's batch_size, without --config 4 on a CPU, else 64", lower_bound=1
)
STEPS = flags.DEFINE_integer("steps", 10, "timed steps of each mode", lower_bound=1)
CHOSEN = flags.DEFINE_list("modes", list(MODES), f"what to time, of {', '.join(MODES)}")
DTYPE = flags.DEFINE_enum("dtype", None, list(DTYPES), "operands of the products; the config's unless given")
JSON = flags.DEFINE_string("json", None, "file for the JSON, instead of stdout")

REPEATS = 5  # The steps are timed in that many runs.
WARM_UP_STEPS = 2

Step = Callable[[], Any]
Result = dict[str, Any]


def main() -> None:
    """Times what the flags say and prints the result."""
    unknown = [mode for mode in CHOSEN.value if mode not in MODES]
    if unknown or not CHOSEN.value:
        raise UserError(f"--modes={','.join(CHOSEN.value)}: modes are {', '.join(MODES)}")
    config, remarks = _setting()
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    try:
        result = measure(config, tuple(CHOSEN.value), STEPS.value, remarks)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the device is out of memory with --batch={config.batch_size}; lower it") from None
    text = json.dumps(result, indent=2)
    if JSON.value is None:
        print(text)
        return
    try:
        with open(JSON.value, "w") as file:
            file.write(text + "\n")
    except OSError as error:
        raise UserError(f"--json={JSON.value}: {error.strerror}") from None


def _setting() -> tuple[ml_collections.ConfigDict, list[str]]:
    """The configuration to time, and what of it had to give way."""
    on_cpu = jax.default_backend() == "cpu"
    config = CONFIG.value
    if config is None:
        config = base_config()
        config.data.source = "fake"
        config.data.image_size = (224, 224)
        config.batch_size = 4 if on_cpu else 64
    if SIZE.value is not None:
        config.model.channels, config.model.depth = SIZES[SIZE.value]["channels"], SIZES[SIZE.value]["depth"]
    if BATCH.value is not None:
        config.batch_size = BATCH.value
    if DTYPE.value is not None:
        config.model.dtype = DTYPE.value
    batch, parts, group = config.batch_size, config.accumulate, config.model.norm_group
    if batch < 1:
        raise UserError(f"config.batch_size={batch} must be at least 1")
    if parts < 1 or batch % parts:
        raise UserError(f"config.accumulate={parts} does not divide the batch of {batch} images")
    if group <= 0 or batch // parts % group == 0:
        return config, []
    config.model.norm_group = 0
    return config, [f"norm_group {group} does not divide the batch: statistics of the whole batch here"]


def measure(
    config: ml_collections.ConfigDict, modes: tuple[str, ...], steps: int, remarks: list[str]
) -> Result:
    """Times the modes of a configuration one after the other, telling stderr of each.

    Returns:
      Plain data: "setting", one entry for each mode, "provenance".

    Raises:
      UserError: a value of the configuration that is out of range.
    """
    fake = FakeSource(
        config.data.fake_images, (*config.data.image_size, config.data.channels), config.data.fake_classes
    )
    real, remark = _real_source(config)
    remarks = [*remarks, *remark]
    source = fake if real is None else real
    task = build_task(config, source.class_names)
    preprocess = build_preprocess(config)
    layers = layer_operations(task.model, tuple(config.data.image_size))
    macs = sum(layer.macs for layer in layers)
    result: Result = {"setting": _describe(config, task, macs, steps, remarks)}
    for line in _setting_lines(result["setting"]):
        _say(line)

    def batches(source: Source) -> Iterator[HostBatch]:
        return _batches(config, source, preprocess)

    if {"inference", "train", "loop"} & set(modes):
        _say("initialising ...")
        optimizer = build_optimizer(config, lambda step: 1e-6)  # A rate at which no loss runs away.
        state = jax.jit(lambda: _initial_state(config, task, optimizer))()
        batch = jax.device_put(_synthetic_batch(config, task))
        result["setting"]["parameters"] = parameter_count(state.variables)
        if "inference" in modes:
            result["inference"] = _time_inference(task, state, batch, steps, macs)
        if "train" in modes or "loop" in modes:
            update, compiled = _compiled_update(config, task, optimizer, state, batch)
            if "train" in modes:
                timed, state = _time_training(update, state, batch, steps)
                result["train"] = _rates(timed, config.batch_size, 6 * macs) | compiled
                _say_result("train", result["train"])
            if "loop" in modes:
                name = "fake" if real is None else config.data.source
                result["loop"] = {"data": name, **_time_loop(update, state, batches(source), steps)}
                result["loop"]["compile_seconds"] = compiled["compile_seconds"]
                _say_result(f"loop, {name} data", result["loop"])
    if "input" in modes:
        result["input"] = {"fake": _time_input(batches(fake), steps)}
        _say_result("input, fake data", result["input"]["fake"])
        if real is not None:
            result["input"][config.data.source] = _time_input(batches(real), steps)
            _say_result(f"input, {config.data.source} data", result["input"][config.data.source])
    return {**result, "provenance": {**provenance(), "cpus": os.cpu_count()}}
