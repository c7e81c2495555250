"""How fast a configuration infers, trains and reads, mode by mode."""

import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from qsdt_jax.assemble.build import build_optimizer, build_parallel
from qsdt_jax.assemble.data import (
    build_preprocess,
    build_training_source,
    class_names_of,
    fake_source,
    input_shape,
    skipping,
)
from qsdt_jax.assemble.network import DTYPES, require_backbone
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.cpus import usable_cpus
from qsdt_jax.data.dense.framing import SIZE
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.data.pipeline import HostBatch, training_batches
from qsdt_jax.deploy.detector import networks_of_detector, runner
from qsdt_jax.deploy.fold import fold, fold_detector
from qsdt_jax.deploy.graphs.onnx_integer import export_onnx
from qsdt_jax.deploy.integer import IntegerArithmetic, integer_forward
from qsdt_jax.detection.inference import find_objects
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.timing import WARM_UP_STEPS, matmul_rate, seconds_per_step
from qsdt_jax.jit_once import jit_once
from qsdt_jax.memory import peak_of_device, require_memory
from qsdt_jax.models import Classifier, Segmenter
from qsdt_jax.models.operations import layer_operations
from qsdt_jax.processes.preemption import Background
from qsdt_jax.progress import tell
from qsdt_jax.tasks.detection import Detection
from qsdt_jax.tasks.operations import macs_of
from qsdt_jax.train.functions import step_function
from qsdt_jax.train.loop import PLACED_AHEAD
from qsdt_jax.train.state import TrainState
from qsdt_jax.train.step import initial_state

INFERENCE = ("inference", "exact", "integer")
MODES = (*INFERENCE, "train", "input", "loop")
LEARNING_RATE = 1e-6  # On random labels, where no loss may run away.

Result = dict[str, Any]
Compiled = tuple[Callable[[], Any], Result]  # A step to be timed, and the facts of its compilation.


class Bench:
    """Timings of one configuration.

    Args:
      config: as for a training run; data that are not there are replaced by fake ones.
      steps: timed steps of each mode.

    Raises:
      UserError: a value of the configuration that is out of range.

    Attributes:
      programs: what has been compiled, by name.
    """

    def __init__(self, config: ml_collections.ConfigDict, steps: int):
        self.config, self.steps, self.remarks, self.programs = config, steps, [], {}
        data = config.data
        self.sources = {"fake": skipping(config, fake_source(config))}
        if data.source != "fake":
            try:
                self.sources[data.source] = build_training_source(config)
            except UserError as error:
                self.remarks.append(f"fake data only: {error}")
        self.data = list(self.sources)[-1]  # What the loop runs on: the config's own where there are.
        self.parallel = build_parallel(config)
        self.preprocess = build_preprocess(config)
        pixels = math.prod(input_shape(config))
        require_memory(4 * config.batch_size * pixels, f"a batch of {config.batch_size} images")
        self.task = build_task(config, class_names_of(self.sources[self.data]))
        self.optimizer = build_optimizer(config, lambda step: LEARNING_RATE)
        model = require_backbone(self.task.model, "the configuration")
        layers = layer_operations(model, tuple(data.image_size))
        self.macs = macs_of(self.task, layers)
        self.training_macs = macs_of(self.task, layers, train=True)

    @property
    def has_logits(self) -> bool:
        """Whether the network is one program from images to logits, which `onnx` takes."""
        return isinstance(self.task.model, Classifier | Segmenter)

    def setting(self) -> Result:
        """What is timed."""
        model = self.config.model
        return {
            "channels": list(model.channels),
            "depth": model.depth,
            "bits": model.bits,
            "timesteps": model.timesteps,
            "dtype": model.dtype,
            "image_size": list(self.config.data.image_size),
            "batch": self.config.batch_size,
            "accumulate": self.config.accumulate,
            "steps": self.steps,
            "macs_per_image": self.macs,
            "backend": jax.default_backend(),
            "devices": len(self.parallel.devices),
            "parallel": self.config.parallel.to_dict(),
            "matmul_gflops_per_second": matmul_rate(DTYPES[model.dtype]),
        }

    def inference(self, *, exact: bool) -> Result:
        """The network on one device; see `inference_step`."""
        return self._timed(*self.inference_step(exact=exact), 2 * self.macs)

    def inference_step(self, *, exact: bool, variables: Any = None) -> Compiled:
        """The jitted network on a batch that is on one device already.

        Of a detector, all from images to objects with masks.

        Args:
          exact: see `exact_evaluation`.
          variables: of the network; those before the first step unless given.
        """
        task, model = self.task, self.task.model
        model = model.clone(backbone=model.backbone.clone(exact_evaluation=exact))
        name = "exact inference" if exact else "inference"

        def infer(variables, images, sizes=None):
            if isinstance(task, Detection):
                batch = {"image": images, SIZE: sizes}
                return dataclasses.replace(task, model=model).outputs(variables, batch)
            return model.apply(variables, images, **({} if sizes is None else {"sizes": sizes}))

        return self._forward(name, infer, self.initial_state().variables if variables is None else variables)

    def integer(self) -> Result:
        """The integer form of the network, as a bundle runs; of a detector, its parts in one program.

        Raises:
          UserError: weights are float, or class and box of a detector take real values.
        """
        task, variables = self.task, self.initial_state().variables
        if not isinstance(task, Detection):
            step = self._forward("integer form", integer_forward, fold(task.model, variables))
            return self._timed(*step, 2 * self.macs)

        def infer(detector, images, sizes):
            networks = networks_of_detector(detector, runner(IntegerArithmetic()))
            return find_objects(networks, task.settings, images, sizes)

        step = self._forward("integer form", infer, fold_detector(task.model, variables))
        return self._timed(*step, 2 * self.macs)

    def onnx(self) -> Result:
        """The integer form in ONNX Runtime on the CPU, on as many threads as there are CPUs."""
        import onnxruntime

        program = fold(self.task.model, self.initial_state().variables)
        images, timesteps = np.asarray(self.inputs[0]), program.neuron.timesteps
        if timesteps > 1 and images.ndim == 4:
            images = np.repeat(images[:, None], timesteps, axis=1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cpus()
        tell("exporting to ONNX ...")
        start = time.perf_counter()
        model = export_onnx(program, images.shape[-3:-1])
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        facts = {"compile_seconds": time.perf_counter() - start, "memory_bytes": None}
        return self._timed(lambda: session.run(None, {"images": images}), facts, 2 * self.macs)

    def _forward(self, name: str, function: Callable, weights: Any) -> Compiled:
        inputs = self.inputs
        compiled, facts = self._compile(name, jax.jit(function), weights, *inputs)
        return lambda: compiled(weights, *inputs), facts

    def train(self) -> Result:
        """The train step over all devices; see `training_step`."""
        return self._timed(*self.training_step(), 6 * self.training_macs)

    def training_step(self) -> Compiled:
        """The train step over all devices, its state donated, on a batch that is on them already."""
        update, facts = self._update
        state, batch = self._spread_state(), self.parallel.place(self.batch)

        def step():
            nonlocal state
            state, metrics = update(state, batch)
            return metrics

        return step, facts

    def input(self) -> Result:
        """The pipeline alone, for each source of data: the rate at which batches come."""
        results = {}
        for name in self.sources:
            start = time.perf_counter()
            batches = self._batches(name)
            next(batches)
            first = time.perf_counter()
            count = 0
            while count < self.steps or time.perf_counter() - first < 1:
                next(batches)
                count += 1
            seconds = time.perf_counter() - first
            results[name] = {
                "batches": count,
                "images_per_second": count * self.config.batch_size / seconds,
                "first_batch_seconds": first - start,
            }
        return results

    def loop(self) -> Result:
        """Training on the pipeline as the training loop does it, and its share of time spent waiting."""
        (update, facts), state = self._update, self._spread_state()
        batches = Background(self._batches(self.data), self.parallel.place, ahead=PLACED_AHEAD)
        previous, waited, start = None, 0.0, 0.0
        with contextlib.closing(batches):
            for i in range(WARM_UP_STEPS + self.steps):
                if i == WARM_UP_STEPS:
                    jax.block_until_ready(previous)
                    waited, start = 0.0, time.perf_counter()
                asked = time.perf_counter()
                batch = batches.get()
                waited += time.perf_counter() - asked
                state, metrics = update(state, batch)
                jax.block_until_ready(previous)
                previous = metrics
            jax.block_until_ready(previous)
            seconds = time.perf_counter() - start
        return {
            "data": self.data,
            "images_per_second": self.steps * self.config.batch_size / seconds,
            "input_wait_share": waited / seconds,
            "compile_seconds": facts["compile_seconds"],
        }

    @functools.cached_property
    def _update(self) -> tuple[Callable, Result]:
        """The training loop's step compiled for all devices and the facts of its compilation."""
        config, parallel = self.config, self.parallel
        function = step_function(
            optimizer=self.optimizer,
            accumulate=config.accumulate,
            shards=parallel.shards_in_step,
            ema_decay=config.ema_decay,
            normalization=self.preprocess.normalization,
            flat=parallel.flat_in_step,
        )
        state = parallel.state_like(jax.eval_shape(self.initial_state))
        spread = parallel.train_step(function, state)
        given = self.task, np.int32(config.seed)
        compiled, facts = self._compile("train step", spread, state, parallel.place(self.batch), *given)
        return (lambda state, batch: compiled(state, batch, *given)), facts

    def _spread_state(self) -> TrainState:
        """The state before the first step on all devices, in memory that may be donated."""
        return self.parallel.put_state(self.initial_state())

    @functools.cached_property
    def initial_state(self) -> Callable[[], TrainState]:
        """Makes the state before the first step, anew with each call."""
        config = self.config
        return jit_once(
            lambda: initial_state(self.task, self.optimizer, seed=config.seed, ema=config.ema_decay > 0)
        )

    @functools.cached_property
    def batch(self) -> HostBatch:
        """The first batch of the data."""
        return next(self._batches(self.data, workers=0))

    @functools.cached_property
    def inputs(self) -> tuple[jax.Array, ...]:
        """The images of that batch on one device, and where they have them their sizes."""
        batch = to_inputs(self.batch, self.preprocess.normalization)
        return tuple(batch[name] for name in ("image", SIZE) if name in batch)

    def _batches(self, name: str, workers: int | None = None) -> Iterator[HostBatch]:
        return training_batches(
            self.sources[name],
            self.preprocess.train,
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            workers=self.config.data.workers if workers is None else workers,
            groups=self.sources[name].groups,
        )

    def _compile(self, name: str, function, *arguments) -> tuple[jax.stages.Compiled, Result]:
        """Compiles ahead of time; with the seconds and, where the backend tells, the program's memory."""
        tell(f"compiling the {name} ...")
        start = time.perf_counter()
        compiled = self.programs[name] = function.lower(*arguments).compile()
        facts: Result = {"compile_seconds": time.perf_counter() - start, "memory_bytes": None}
        stats = compiled.memory_analysis()
        if stats is not None:
            facts["memory_bytes"] = {
                "arguments": stats.argument_size_in_bytes,
                "temporaries": stats.temp_size_in_bytes,
                "new_output": stats.output_size_in_bytes - stats.alias_size_in_bytes,
            }
        return compiled, facts

    def _timed(self, step: Callable[[], Any], facts: Result, flops_per_image: int) -> Result:
        seconds = seconds_per_step(step, self.steps)
        return {**self.rates(seconds, flops_per_image), **facts, "peak_bytes": peak_of_device()}

    def rates(self, seconds: list[float], flops_per_image: int) -> Result:
        """What follows from the seconds of some steps."""
        median = statistics.median(seconds)
        rate = self.config.batch_size / median
        return {
            "step_seconds": {"median": median, "min": min(seconds), "max": max(seconds)},
            "spread": (max(seconds) - min(seconds)) / median,
            "images_per_second": rate,
            "model_gflops_per_second": rate * flops_per_image / 1e9,
        }
