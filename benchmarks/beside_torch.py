"""Our network beside its PyTorch twin: compared, then timed in turn (`launch bench --beside torch`)."""

import contextlib
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.in_turn import Way, ratio, seconds_in_turn
from benchmarks.torch_twin.agreement import drawn_variables, require_equal, twin_of
from qsdt_jax.assemble.network import DTYPES
from qsdt_jax.configuration.keys import value_of
from qsdt_jax.cpus import usable_cpus
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.speed import LEARNING_RATE, Bench, Result
from qsdt_jax.inspect.timing import WARM_UP_STEPS, large_product
from qsdt_jax.interop import to_torch
from qsdt_jax.memory import peak_of_device
from qsdt_jax.progress import tell
from qsdt_jax.tasks.classification import Classification

MODES = ("inference", "train")
OURS, EAGER, CHANNELS_LAST, COMPILED = "qsdt_jax", "eager", "channels_last", "torch.compile"
MATMUL = "matrix product"
# Where float32 rounds otherwise, spikes near a threshold differ, and what follows from them: logits by 0.2 in
# size S, where those of networks that have nothing in common differ by 1.4. The first loss hardly differs: it
# is near log(classes) whatever the network. What bfloat16 does to the twin is only told.
LARGEST_DEVIATION = {
    "inference": {"float32": 0.5, "float64": 1e-6},
    "train": {"float32": 1e-2, "float64": 1e-6},
}
# What both can do: LAMB, a moving average and the like are not in torch.
SIMPLE: dict[str, Any] = {
    "optimizer.name": "adamw",
    "optimizer.decay_vectors": False,
    "optimizer.rate_rules": (),
    "accumulate": 1,
    "ema_decay": 0.0,
    "data.mixup": 0.0,
    "data.cutmix": 0.0,
    "model.norm_group": 0,
}


def measure(config: ml_collections.ConfigDict, steps: int, modes: Sequence[str]) -> Result:
    """Compares and times.

    Args:
      config: what is timed; what torch lacks gives way.
      steps: turns that each way takes.
      modes: of `MODES`.

    Returns:
      For each mode and way what `Bench` says of it; besides "share_of_matmul", of a matrix product in the
      same turns, "peak_bytes" (what a process that runs this way alone would hold at the most; None on CPUs,
      and of ours where something earlier has held more), "deviation" of the logits or the first loss from
      ours, and "ratio", see `in_turn.ratio`. Of a way of torch's that cannot be timed here, "failed": why.

    Raises:
      UserError: the network has something that the twin lacks, they do not agree, or memory lacks for all.
    """
    remarks = simplified(config)
    bench = Bench(config, steps)
    if not isinstance(bench.task, Classification):
        raise UserError("the PyTorch twin is a classifier; the configuration describes another task")
    if len(bench.parallel.devices) != 1:
        raise UserError(f"bench --beside torch takes one device, found {len(bench.parallel.devices)}")
    setting = {**bench.setting(), **_prepared_torch()}
    tell("comparing both in float64 ...")
    agreement = require_equal(bench.task)
    result: Result = {"setting": {**setting, "remarks": remarks + bench.remarks}, "agreement": agreement}
    for mode in modes:
        try:
            result[mode] = _timed(bench, mode)
        except RuntimeError as error:
            if not _memory_lacks(error):
                raise
            images = config.batch_size
            raise UserError(
                f"{mode}: torch is out of memory with {images} images per step; lower --batch"
            ) from None
    return result


def simplified(config: ml_collections.ConfigDict) -> list[str]:
    """Makes the configuration one that torch can follow; what gave way, for the reader."""
    remarks = []
    for key, simple in SIMPLE.items():
        if (given := value_of(config, key)) != simple:
            config.update_from_flattened_dict({key: simple})
            remarks.append(f"{key}={simple} instead of {given}, as torch has it")
    return remarks


def _prepared_torch() -> Result:
    """Gives torch the threads and the device that jax has."""
    torch.set_num_threads(usable_cpus())
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"jax runs on {jax.default_backend()}, but torch {torch.__version__} sees no GPU")
    torch.backends.cuda.matmul.allow_tf32 = True  # As XLA does, and cuDNN under torch.
    torch.backends.cudnn.benchmark = device == "cuda"  # As XLA times ways to convolve and takes the fastest.
    return {"torch": torch.__version__, "torch_device": device, "torch_threads": torch.get_num_threads()}


def _timed(bench: Bench, mode: str) -> Result:
    """All ways of one mode."""
    rivals, earlier = Rivals(bench, mode), peak_of_device()
    own, facts, expected = _ours(bench, mode)
    peak = peak_of_device()  # Since the process began: jax cannot be asked for less.
    ways, about = {OURS: own}, {OURS: {**facts, "peak_bytes": None if peak == earlier else peak}}
    failed: Result = {}
    for name in (EAGER, CHANNELS_LAST, COMPILED):
        tell(f"preparing {name} ...")
        start = time.perf_counter()
        try:
            way, found, peak = rivals.warmed_up(name)
        except Exception as error:
            if (told := _why_untimed(name, error)) is None:
                raise
            tell(f"{mode}: {name} is not timed: {told}")
            failed[name] = {"failed": told}
            continue
        deviation = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        dtype = bench.config.model.dtype
        if not deviation <= LARGEST_DEVIATION[mode].get(dtype, np.inf):
            raise UserError(f"{mode}: {name} differs by {deviation:.1e} in {dtype}: not timed")
        seconds = time.perf_counter() - start
        ways[name] = way
        about[name] = {"compile_seconds": seconds, "peak_bytes": peak, "deviation": deviation}
    product, product_flops = large_product(DTYPES[bench.config.model.dtype])
    jax.block_until_ready(product())
    # In the same turns: at the same pace of the machine.
    seconds = seconds_in_turn({**ways, MATMUL: Way(product, jax.block_until_ready)}, bench.steps)
    peak = product_flops / statistics.median(seconds.pop(MATMUL)) / 1e9
    flops = 2 * bench.macs if mode == "inference" else 6 * bench.training_macs
    result = {}
    for name, own_seconds in seconds.items():
        rates = bench.rates(own_seconds, flops)
        share = rates["model_gflops_per_second"] / peak
        result[name] = {**rates, "share_of_matmul": share, **about[name]}
        if name != OURS:
            result[name]["ratio"] = ratio(seconds[OURS], own_seconds)
    return result | failed


def _why_untimed(name: str, error: Exception) -> str | None:
    """Why a way cannot be timed on this machine, in a line; None for a bug."""
    if _memory_lacks(error):
        return "out of memory"
    told = next(filter(None, str(error).splitlines()), "")
    return f"{type(error).__name__}: {told[:150]}" if name == COMPILED else None


def _memory_lacks(error: Exception) -> bool:
    """Whether torch has asked for more memory than there is: of a GPU, or of this machine."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _ours(bench: Bench, mode: str) -> tuple[Way, Result, np.ndarray]:
    """Our way, warmed up, the facts of its compilation, and its logits or its first loss."""
    if mode == "inference":
        step, facts = bench.inference_step(exact=False, variables=_variables(bench))
        answer = np.asarray(step(), np.float64)
    else:
        step, facts = bench.training_step()
        answer = np.asarray(step()["loss"], np.float64)
    for _ in range(WARM_UP_STEPS - 1):
        jax.block_until_ready(step())
    return Way(step, jax.block_until_ready), facts, answer


def _variables(bench: Bench) -> Any:
    """Of an inference: drawn ones, with which all blocks have a say in the logits."""
    return jax.device_put(drawn_variables(bench.task.model, np.random.default_rng(0)))


class Rivals:
    """The twin in several ways, on the batch and with the variables of `bench`.

    bfloat16 is torch's autocast.
    """

    def __init__(self, bench: Bench, mode: str):
        self.model, self.smoothing = bench.task.model, bench.task.label_smoothing
        self.mode, self.optimizer = mode, bench.config.optimizer
        self.device = torch.device("cpu" if jax.default_backend() == "cpu" else "cuda")
        self.dtype = torch.float64 if bench.config.model.dtype == "float64" else torch.float32
        self.narrow = bench.config.model.dtype == "bfloat16"
        variables = _variables(bench) if mode == "inference" else bench.initial_state().variables
        self.arrays = to_torch(jax.device_get(variables))
        images = torch.tensor(np.asarray(bench.inputs[0])).permute(0, 3, 1, 2)
        self.images = images.to(self.device, self.dtype)
        self.labels = torch.tensor(np.asarray(bench.batch["label"])).long().to(self.device)
        self.batch_bytes = self.images.nbytes + self.labels.nbytes

    def warmed_up(self, name: str) -> tuple[Way, np.ndarray, int | None]:
        """That way; its first logits or loss; and on a GPU what it holds at the most, its batch included."""
        on_gpu, others = self.device.type == "cuda", 0
        if on_gpu:
            gc.collect()  # What a way that failed has left may hold itself.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            others = torch.cuda.memory_allocated() - self.batch_bytes  # Other ways stay where they are.
        step = self._step(name)
        answers = [step().detach().double().cpu().numpy() for _ in range(WARM_UP_STEPS)]
        peak = torch.cuda.max_memory_allocated() - others if on_gpu else None
        wait = (lambda _: torch.cuda.synchronize()) if on_gpu else (lambda _: None)
        return Way(step, wait), answers[0], peak

    def _step(self, name: str) -> Callable[[], torch.Tensor]:
        layout = torch.contiguous_format if name == EAGER else torch.channels_last
        twin = twin_of(self.model)
        twin.load_arrays(self.arrays)
        twin = twin.to(self.device, self.dtype, memory_format=layout)
        images = self.images.contiguous(memory_format=layout)
        model = torch.compile(twin, dynamic=False) if name == COMPILED else twin
        if self.mode == "inference":
            twin.eval()

            def infer() -> torch.Tensor:
                with torch.inference_mode(), self._autocast():
                    return model(images)

            return infer
        optimizer = self._optimizer(twin)

        def train() -> torch.Tensor:
            optimizer.zero_grad()
            with self._autocast():
                loss = F.cross_entropy(model(images), self.labels, label_smoothing=self.smoothing)
            loss.backward()
            if self.optimizer.clip_norm:
                torch.nn.utils.clip_grad_norm_(twin.parameters(), self.optimizer.clip_norm)
            optimizer.step()
            return loss

        return train

    def _optimizer(self, twin: torch.nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": list(group), "weight_decay": self.optimizer.weight_decay if decays else 0.0}
            for decays, group in itertools.groupby(sorted(twin.parameters(), key=_is_matrix), key=_is_matrix)
        ]
        return torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            yield


def _is_matrix(parameter: torch.Tensor) -> bool:
    return parameter.dim() >= 2


def table(result: Result) -> str:
    """The result for people."""
    setting = result["setting"]
    height, width = setting["image_size"]
    lines = [
        f"{height}x{width}, batch {setting['batch']}, {setting['dtype']} on {setting['backend']}; "
        f"torch {setting['torch']} on {setting['torch_device']}, {setting['torch_threads']} threads",
        f"equal in float64: no array of a training step differs by more than {result['agreement']:.1e}",
        *setting["remarks"],
    ]
    for mode in MODES:
        for name, r in result.get(mode, {}).items():
            if "failed" in r:
                lines.append(f"{mode:<10} {name:<14} not timed: {r['failed']}")
                continue
            line = (
                f"{mode:<10} {name:<14} {r['images_per_second']:>9,.2f} images/s, "
                f"{1e3 * r['step_seconds']['median']:,.1f} ms a step, "
                f"{100 * r['share_of_matmul']:.0f} % of the matrix product"
            )
            if r["peak_bytes"] is not None:
                line += f", {r['peak_bytes'] / 1e9:,.2f} GB at most"
            if "ratio" in r:
                q = r["ratio"]
                line += (
                    f"; takes {q['median']:.2f} times as long as ours (half of the turns "
                    f"{q['lower_quartile']:.2f} to {q['upper_quartile']:.2f}, "
                    f"all {q['min']:.2f} to {q['max']:.2f})"
                )
            lines.append(line)
    if setting["backend"] == "cpu":
        lines.append("peak memory at run time: not measured on CPUs")
    return "\n".join(lines)
