"""A workdir of an older version of this project opens, and its run goes on as it would have then.

`tests/golden/workdir.tar.xz` is of a run of 40 steps that was stopped after step 30, and the metrics of the
steps after it. Written when the classifier was a backbone itself and parts of a network had bits by name.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from qsdt_jax.loading.trained import load_trained
from tests.golden.recipe import FOLDER
from tests.launch.tiny import launch

CONFIG = """
from configs.digits import get_config as digits

def get_config():
    config = digits()
    config.model.update(channels=(8, 8, 8, 8), depth=2, num_heads=2, mlp_ratio=1)
    config.model.bits_rules = (("block.*/attn/q_repconv/.*", 8), ("head(_dist)?", 1))
    config.data.update(image_size=(16, 16), digits_images=100)
    config.update(batch_size=50, epochs=20, ema_decay=0.0)
    config.eval.every_epochs = 20.0
    config.log.every_steps = 1
    return config
"""


@pytest.fixture
def workdir(tmp_path) -> Path:
    with tarfile.open(FOLDER / "workdir.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "workdir"


def test_its_network_opens(workdir):
    """With the bits of each part: 8 in q, 1 in the head, which therefore has no step size, 4 in the rest."""
    trained = load_trained(workdir)
    assert trained.step == 30
    assert "step_size" not in trained.variables["params"]["head"]
    step_sizes = trained.variables["params"]["block3_0"]["attn"]
    assert {"q_repconv", "k_repconv"} <= step_sizes.keys()


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_its_run_goes_on(workdir, remat):
    """With any `remat`, which changes no number but in its last digits, as versions of batch norm do.

    So the first steps agree to these digits; later a spike flips, of which the norm of a gradient hears more.
    """
    (workdir.parent / "config.py").write_text(CONFIG)
    expected = [json.loads(line) for line in (workdir / "expected.jsonl").read_text().splitlines()]
    config = workdir.parent / "config.py"
    assert launch("--config", config, "--workdir", workdir, f"--config.model.remat={remat}") == 0
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in metrics if "train/loss" in line]
    assert [line["step"] for line in found] == [line["step"] for line in expected] == list(range(31, 41))
    for name, late in (("train/loss", 1e-3), ("train/grad_norm", 5e-3)):
        ours, theirs = (np.array([line[name] for line in lines]) for lines in (found, expected))
        np.testing.assert_allclose(ours[:3], theirs[:3], rtol=3e-6, err_msg=name)
        np.testing.assert_allclose(ours, theirs, rtol=late, err_msg=name)
