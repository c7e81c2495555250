"""The exported program, run by a process that cannot import this project."""

import subprocess
import sys

import numpy as np
import pytest

from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.stablehlo import PLATFORMS, export_stablehlo
from tests.deploy.nets import INTEGER, deployed_form, draw_images, draw_variables, short_net

RUN_ALONE = """
import sys
from pathlib import Path
import jax.export
import numpy as np
exported = jax.export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))
for batch in (1, 3):
    np.save(f"logits{batch}.npy", exported.call(np.load("images.npy")[:batch]))
print(exported.platforms, sorted(name for name in ("flax", "qsdt_jax", "launch") if name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"bits": 2, "levels": 3, "timesteps": 2, "rectify": "norm"}], ids=str)
def test_runs_without_the_project_and_gives_the_same_bits(fields, tmp_path):
    model = short_net(**fields)
    frames = (model.backbone.timesteps,) if model.backbone.timesteps > 1 else ()
    program, images = fold(model, draw_variables(model)), draw_images(3, *frames, 32, 48, 3)
    (tmp_path / "model.stablehlo").write_bytes(export_stablehlo(program, (32, 48)))
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-I", "-c", RUN_ALONE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"{PLATFORMS} []\n", 0), done.stderr
    _, expected = deployed_form(program, images, INTEGER)
    assert np.array_equal(np.load(tmp_path / "logits3.npy"), expected)
    assert np.array_equal(np.load(tmp_path / "logits1.npy"), expected[:1])
