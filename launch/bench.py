"""step time, images/s and input wait, or how fast JPEGs become inputs; JSON on stdout, a table on stderr."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections
from absl import flags

from configs.imagenet_s import get_config as imagenet_s
from launch.flags import DEFINED_OFTEN, GIVEN_CONFIG, POSITIONAL, define_config, define_path, require_writable
from qsdt_jax import bounds
from qsdt_jax.assemble.build import fit_step
from qsdt_jax.assemble.network import DTYPES
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.cpus import usable_cpus
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.input_speed import measure_input
from qsdt_jax.inspect.speed import INFERENCE, MODES, Bench, Result
from qsdt_jax.models import SIZES
from qsdt_jax.progress import tell
from qsdt_jax.workdir.provenance import provenance

CPU_BATCH, ACCELERATOR_BATCH = 4, 64
COMPARED = ("inference", "train")  # What --beside times.

WHAT = flags.DEFINE_list(
    POSITIONAL,
    [],
    "input  the input alone, of JPEGs like those of ImageNet; without --config by the published recipe",
    **DEFINED_OFTEN,
)
CONFIG = define_config()
SIZE = flags.DEFINE_enum(
    "size",
    None,
    list(SIZES),
    "published size, instead of the config's; without --config: S at 224x224, float32, fake data",
    **DEFINED_OFTEN,
)
BATCH = flags.DEFINE_integer(
    "batch",
    None,
    f"images per step, instead of the config's; without one {CPU_BATCH} on a CPU, else {ACCELERATOR_BATCH}",
    lower_bound=1,
    upper_bound=bounds.BATCH,
    **DEFINED_OFTEN,
)
STEPS = flags.DEFINE_integer("steps", 10, "timed steps of each mode", lower_bound=1, **DEFINED_OFTEN)
CHOSEN = flags.DEFINE_list(
    "modes",
    list(MODES),
    f"what to time, of {', '.join(MODES)}; integer also in ONNX Runtime where that is installed, but for "
    "detectors",
    **DEFINED_OFTEN,
)
DTYPE = flags.DEFINE_enum(
    "dtype", None, list(DTYPES), "operands of the products, instead of the config's", **DEFINED_OFTEN
)
BESIDE = flags.DEFINE_enum(
    "beside",
    None,
    ["torch"],
    "compares inference and training with a twin of the network in PyTorch, which has to be installed, and "
    "times both in turn; --steps: turns of each",
    **DEFINED_OFTEN,
)
JSON = define_path("json", "file for the JSON, instead of stdout")


def main() -> None:
    """Times what the flags say and prints the result."""
    result: Result
    if WHAT.value not in ([], ["input"]):
        raise UserError(f"bench {' '.join(WHAT.value)}: expected nothing or input")
    if not CHOSEN.value or set(CHOSEN.value) - set(MODES):
        raise UserError(f"--modes={','.join(CHOSEN.value)}: the modes are {', '.join(MODES)}")
    if JSON.value is not None:
        require_writable("json", JSON.value)
    if WHAT.value and BESIDE.value:
        raise UserError("bench input has nothing to compare; leave --beside")
    if WHAT.value:
        config = CONFIG.value or imagenet_s("published")
        result = {"setting": {"config": _config_file()}, **measure_input(config)}
        lines = input_table(result)
    else:
        if BESIDE.value:
            _prepare_torch()
        config, remarks = _config()
        with _arithmetic_and_memory(config):
            result, lines = (_measure_beside_torch if BESIDE.value else _measure_modes)(config, remarks)
    result["provenance"] = {**provenance(), "cpus": usable_cpus()}
    tell("\n" + lines)
    text = json.dumps(result, indent=2) + "\n"
    if JSON.value is None:
        print(text, end="")
    else:
        Path(JSON.value).write_text(text)


@contextlib.contextmanager
def _arithmetic_and_memory(config: ml_collections.ConfigDict) -> Iterator[None]:
    """Lets jax have float64 where the configuration asks for it, and says in a line what memory lacks."""
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", before or config.model.dtype == "float64")
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"out of memory with {config.batch_size} images per step; lower --batch") from None
    finally:
        jax.config.update("jax_enable_x64", before)


def _measure_modes(config: ml_collections.ConfigDict, remarks: list[str]) -> tuple[Result, str]:
    """The result, and the same for people."""
    bench = Bench(config, STEPS.value)
    timings: dict[str, Callable[[], Result]] = {
        "inference": lambda: bench.inference(exact=False),
        "exact": lambda: bench.inference(exact=True),
        "integer": bench.integer,
        "train": bench.train,
        "input": bench.input,
        "loop": bench.loop,
    }
    result: Result = {
        "setting": {"config": _config_file(), **bench.setting(), "remarks": remarks + bench.remarks}
    }
    for mode in MODES:
        if mode not in CHOSEN.value:
            continue
        try:
            result[mode] = timings[mode]()
        except UserError as error:
            if mode != "integer" or len(CHOSEN.value) == 1:
                raise
            result["setting"]["remarks"].append(f"the integer form is not timed: {error}")
            continue
        if mode == "integer" and bench.has_logits and importlib.util.find_spec("onnxruntime"):
            result["onnx"] = bench.onnx()
    return result, network_table(result)


def _prepare_torch() -> None:
    """Before jax takes the device."""
    if not set(COMPARED) & set(CHOSEN.value):
        raise UserError(f"--modes={','.join(CHOSEN.value)}: --beside times {' and '.join(COMPARED)}")
    if importlib.util.find_spec("benchmarks") is None:
        raise UserError("--beside=torch: the twin is in a checkout of qsdt_jax, not in what pip installs")
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "--beside=torch: PyTorch is not installed; pip install -r benchmarks/torch_twin/requirements.txt"
        )
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Two frameworks share the memory.


def _measure_beside_torch(config: ml_collections.ConfigDict, remarks: list[str]) -> tuple[Result, str]:
    """The result, and the same for people."""
    from benchmarks import beside_torch  # Here alone, since it imports torch.

    result = beside_torch.measure(config, STEPS.value, [mode for mode in COMPARED if mode in CHOSEN.value])
    result["setting"]["config"] = _config_file()
    result["setting"]["remarks"][:0] = remarks
    return result, beside_torch.table(result)


def _config_file() -> str | None:
    return GIVEN_CONFIG.name if CONFIG.value else None


def _config() -> tuple[ml_collections.ConfigDict, list[str]]:
    """The configuration to time, and what of it had to give way."""
    config = CONFIG.value
    if config is None:
        config = base_config()
        config.data.source = "fake"
        config.data.image_size = (224, 224)
        config.batch_size = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
    if SIZE.value is not None:
        config.model.update(SIZES[SIZE.value])
    if BATCH.value is not None:
        config.batch_size = BATCH.value
    if DTYPE.value is not None:
        config.model.dtype = DTYPE.value
    return config, fit_step(config)


def network_table(result: Result) -> str:
    """The result for people."""
    setting = result["setting"]
    height, width = setting["image_size"]
    lines = [
        f"{setting['macs_per_image'] / 1e9:.3f} GMACs at {height}x{width}, batch {setting['batch']}, "
        f"{setting['dtype']}; {setting['devices']} x {setting['backend']}, "
        f"each with a matrix product of {setting['matmul_gflops_per_second']:,.0f} GFLOP/s",
        *setting["remarks"],
    ]
    for mode in (*INFERENCE, "onnx", "train"):
        if mode in result:
            r = result[mode]
            lines.append(
                f"{mode:<10} {r['images_per_second']:>10,.1f} images/s  "
                f"{1e3 * r['step_seconds']['median']:,.1f} ms a step "
                f"(min {1e3 * r['step_seconds']['min']:,.1f}, spread {100 * r['spread']:.0f} %), "
                f"{r['model_gflops_per_second']:,.0f} GFLOP/s, compiled in {r['compile_seconds']:.0f} s"
            )
            if r["memory_bytes"] is not None:
                total = sum(r["memory_bytes"].values())
                lines[-1] += f", {total / 1e6:,.0f} MB"
            if r["peak_bytes"] is not None:
                lines[-1] += f", {r['peak_bytes'] / 1e6:,.0f} MB in use at the most by now"
    for name, r in result.get("input", {}).items():
        lines.append(f"{'input':<10} {r['images_per_second']:>10,.1f} images/s  {name} data")
    if "loop" in result:
        r = result["loop"]
        lines.append(
            f"{'loop':<10} {r['images_per_second']:>10,.1f} images/s  {r['data']} data, "
            f"{100 * r['input_wait_share']:.1f} % of the time waiting for batches"
        )
    return "\n".join(lines)


def input_table(result: Result) -> str:
    """The result for people."""
    images = result["images"]
    lines = [
        f"JPEGs of {images['width']}x{images['height']}, {images['mean_bytes'] / 1e3:,.0f} kB, to inputs of "
        f"{'x'.join(map(str, images['input_size']))}, {images['bytes_to_device']:,} bytes each to the device",
        *(f"{rate:>8,.0f} images/s of a core  {name}" for name, rate in result["stages"].items()),
    ]
    for name, rate in result["pipeline"].items():
        lines.append(
            f"{rate:>8,.0f} images/s in all     pipeline, {name}: {rate / result['cores']:,.0f} for each of "
            f"{result['cores']} cores"
        )
    return "\n".join(lines)
