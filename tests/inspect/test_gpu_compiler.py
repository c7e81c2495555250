"""XLA's compiler for GPUs, where it is installed, on a machine that has no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from launch import inspect as verb
from qsdt_jax.assemble.build import build_parallel
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.cuda_plugin import allow_without_driver
from qsdt_jax.errors import UserError
from qsdt_jax.inspect import gpu_compiler
from qsdt_jax.inspect.gpu_compiler import compiled_for, compiler_is_installed, devices_of
from qsdt_jax.inspect.lowered import as_bytes, lowered_inference
from qsdt_jax.inspect.report import report
from qsdt_jax.inspect.targets import H100, TARGETS
from qsdt_jax.tasks.task import variable_shapes
from tests.configs.tiny import get_config
from tests.launch.tiny import launch

ROOT = Path(__file__).parents[2]
TINY = f"--config={ROOT}/tests/configs/tiny.py"
installed = pytest.mark.skipif(
    not compiler_is_installed(),
    reason="XLA's compiler for GPUs is not installed: pip install '.[gpu-compile]'",
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target=b52"], "value should be one of <h100|h200|a100>"),
        (["--target=h100", "--compile"], "--target compiles the train step already; leave --compile"),
        (["--target=h100", "--memory_gb=40"], "--target=h100 has its memory and peak; leave --memory_gb"),
        (
            ["--target=h100"],
            "XLA's compiler for GPUs is not installed here; 1 GB: pip install '.[gpu-compile]'",
        ),
    ],
)
def test_mistakes_are_one_line(words, message, capsys, monkeypatch):
    monkeypatch.setattr(gpu_compiler, "PLUGINS", ("no_such_plugin",))
    assert launch("inspect", TINY, *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_without_the_compiler_devices_are_estimated(monkeypatch):
    """And with it they are H100s, unless another device is described."""

    def target(**flags):
        for name in ("TARGET", "DEVICES", "MEMORY_GB", "PEAK_TFLOPS"):
            monkeypatch.setattr(verb, name, SimpleNamespace(value=flags.get(name.lower())))
        return verb._target()

    monkeypatch.setattr(verb, "compiler_is_installed", lambda: False)
    assert target(devices=8) is None and target() is None
    monkeypatch.setattr(verb, "compiler_is_installed", lambda: True)
    assert target(devices=8) is H100 and target() is None
    assert target(devices=8, memory_gb=40.0) is None and target(devices=8, peak_tflops=312.0) is None
    assert target(target="a100") is TARGETS["a100"]


@installed
def test_commands_on_the_cpu_say_nothing_of_it():
    """JAX logs a traceback where it cannot load the plug-in, as where libraries of a GPU are missing."""
    script = (
        "import jax; from launch.surroundings import prepare_surroundings as p; p(); print(jax.devices())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@installed
def test_a_driver_keeps_its_checks(monkeypatch):
    monkeypatch.delenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", raising=False)
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    allow_without_driver()
    assert "JAX_SKIP_CUDA_CONSTRAINTS_CHECK" not in os.environ


@installed
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_compiles(name):
    """For several devices, and this machine stays what it is."""
    target = TARGETS[name]
    mesh = jax.sharding.Mesh(devices_of(target, 4), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((64, 64), jnp.bfloat16, sharding=sharding)
    compiled = compiled_for(target, "sum of squares", jax.jit(lambda x: jnp.sum(x @ x.T)).lower(x))
    assert re.search(r"all-(reduce|gather)", compiled.as_text() or "")
    memory = compiled.memory_analysis()
    assert memory is not None and memory.argument_size_in_bytes == 16 * 64 * 2
    assert {device.platform for device in jax.devices()} == {"cpu"}


@installed
def test_what_the_compiler_refuses_is_one_line(capsys):
    class Refused:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: no tiles\nmore about it")

    with pytest.raises(UserError) as refused:
        compiled_for(H100, "train step", Refused())  # pyright: ignore[reportArgumentType]
    assert str(refused.value) == (
        "XLA's compiler fails on the train step for NVIDIA H100 80GB HBM3: INTERNAL: no tiles"
    )
    assert capsys.readouterr().err.startswith("compiling the train step for NVIDIA H100 80GB HBM3 ...\n")


@installed
@pytest.mark.slow
def test_inference_of_a_network_on_two_gpus():
    """What it multiplies in which types: counts as bytes or widened in the kernel, digits as float16."""
    jax.config.update("jax_disable_most_optimizations", False)
    config = get_config()
    config.model.dtype = "bfloat16"
    task, normalization = build_task(config, tuple("abcdef")), build_preprocess(config).normalization
    batch = as_bytes(task.batch_shapes(16), normalization)
    parallel = build_parallel(config, devices_of(H100, 2))
    lowered = lowered_inference(task, variable_shapes(task), batch, normalization, parallel)
    compiled = compiled_for(H100, "inference", lowered)
    rows = report(compiled, H100, 16, 2)
    told = {name: value for name, value in rows if name}
    assert list(told) == ["memory per device", "bytes moved", "kernels", "products", "sent", "roofline"]
    assert "fits into 84.9 GB" in told["memory per device"] and told["sent"] == "nothing"
    assert 100 < int(told["kernels"]) < 250
    types = [re.match(r"([\d,]+) (.* -> \w+): ", value) for name, value in rows if "->" in value]
    assert {match[2]: int(match[1]) for match in types if match} == {
        "matrix products bf16 x bf16 -> f32": 19,
        "matrix products f16 x f16 -> f32": 12,
        "convolutions s8 x s8 -> f32": 16,
    }
    variables = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variable_shapes(task)))
    memory = compiled.memory_analysis()
    # All variables but those that evaluation does not read, and half of the images, as bytes.
    assert memory is not None
    assert 0.9 * variables < memory.argument_size_in_bytes - 8 * 16 * 16 * 3 < 1.1 * variables
