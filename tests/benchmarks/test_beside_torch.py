"""`bench --beside torch`, with torch and without."""

import importlib.util
import json
from unittest import mock

import pytest

from tests.launch.tiny import launch

CONFIG = """
from qsdt_jax.assemble.defaults import base_config

def get_config():
    config = base_config()
    config.model.channels, config.model.depth, config.model.num_heads = (4, 4, 8, 8), 2, 2
    config.data.source, config.data.image_size, config.batch_size = "fake", (32, 32), 2
    return config
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(CONFIG)
    return f"--config={file}"


def test_without_torch_there_is_one_line(config, capsys):
    find = importlib.util.find_spec
    with mock.patch("importlib.util.find_spec", lambda name: None if name == "torch" else find(name)):
        assert launch("bench", config, "--beside=torch") == 2
    out, err = capsys.readouterr()
    assert out == ""
    install = "pip install -r benchmarks/torch_twin/requirements.txt"
    assert err == f"error: --beside=torch: PyTorch is not installed; {install}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--beside=tensorflow",), "should be one of"),
        (("--beside=torch", "input"), "bench input has nothing to compare; leave --beside"),
        (
            ("--beside=torch", "--modes=integer,loop"),
            "integer,loop: --beside times inference and train",
        ),
    ],
)
def test_mistakes_are_one_line(words, told, capsys):
    assert launch("bench", *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and told in err and err.count("\n") == 1


@pytest.mark.slow
def test_both_modes_are_timed(config, capsys):
    """Without torch.compile, which takes a minute."""
    pytest.importorskip("torch", reason="pip install -r benchmarks/torch_twin/requirements.txt")
    failing = mock.patch("torch.compile", side_effect=RuntimeError("no compiler\nand more"))
    with failing:
        assert launch("bench", config, "--beside=torch", "--steps=2", "--config.ema_decay=0.9") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["agreement"] < 1e-9
    assert report["setting"]["remarks"] == [
        "optimizer.name=adamw instead of lamb, as torch has it",
        "ema_decay=0.0 instead of 0.9, as torch has it",
        "inference: torch.compile does not work here: RuntimeError: no compiler",
        "train: torch.compile does not work here: RuntimeError: no compiler",
    ]
    for mode in ("inference", "train"):
        assert list(report[mode]) == ["qsdt_jax", "eager", "channels_last"]
        ours = report[mode].pop("qsdt_jax")
        assert "ratio" not in ours and ours["peak_bytes"] is None
        for name, other in report[mode].items():
            assert other["ratio"]["min"] <= other["ratio"]["median"] <= other["ratio"]["max"]
            assert other["deviation"] < 1e-3, (mode, name)
            assert f"{other['images_per_second']:,.2f} images/s" in err
    assert "not measured on CPUs" in err
