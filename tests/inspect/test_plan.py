"""Compiling for devices that are not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import functools, json, jax, jax.numpy as jnp, numpy as np, optax
from qsdt_jax.inspect.lowered import lowered_train_step
from qsdt_jax.inspect.plan import force_devices, on_devices
force_devices(8)
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.step import initial_state, train_step
from tests.train import spread
task, optimizer = spread.task(norm_group=4, dtype=jnp.float32), optax.sgd(0.1)
state = jax.eval_shape(lambda: initial_state(task, optimizer))
image, label = jax.ShapeDtypeStruct((32, 8, 8, 1), np.float32), jax.ShapeDtypeStruct((32,), np.int32)
batch = {"image": image, "label": label}
step = functools.partial(train_step, task=task, optimizer=optimizer)
bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.variables))
rows = on_devices(step, state, batch, Parallel(), 1000, memory_gb=1e-6, peak_tflops=1.0)
convolutions = {}
for mode, platform in [("jit", None), ("jit", "tpu"), ("pmap", "tpu")]:
    text = lowered_train_step(step, state, batch, Parallel(mode=mode), platform).as_text()
    convolutions[f"{mode} {platform}"] = text.count("stablehlo.convolution(")
print(json.dumps({"rows": rows, "bytes": bytes, "convolutions": convolutions}))
"""


@pytest.mark.slow
def test_a_step_for_eight_devices():
    """With statistics per device, all that is exchanged but the mixed images are gradients and statistics."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {name: value for name, value in found["rows"] if name}
    assert "DOES NOT FIT into 1e-06 GB" in rows["memory per device"]
    sent = {part.split(" MB ")[1]: float(part.split(" MB ")[0]) for part in rows["sent per step"].split(", ")}
    assert sent.keys() == {"all-reduce", "collective-permute"}
    assert found["bytes"] / 1e6 <= sent["all-reduce"] + 0.005 < 2 * found["bytes"] / 1e6 + 0.02
    # 1 TFLOP/s on each of 8 devices for 1000 FLOPs an image.
    assert rows["images/s"].startswith("20 %: 1,600,000,000; 40 %: 3,200,000,000")
    # A CPU multiplies those of 1x1 and depthwise kernels otherwise.
    convolutions = found["convolutions"]
    assert convolutions["jit None"] < convolutions["jit tpu"] == convolutions["pmap tpu"]
