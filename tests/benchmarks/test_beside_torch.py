"""`bench --beside torch`, with torch and without."""

import importlib.util
import json
import sys
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from qsdt_jax.interop import to_torch
from tests.launch.tiny import launch

CONFIG = """
from qsdt_jax.configuration.defaults import base_config

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


@pytest.mark.parametrize("words", [(), ("--beside=torch",)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_either_way_has_the_types_and_tells_what_memory_lacks(words, dtype, config, capsys, monkeypatch):
    had = []

    def exhausted(*_):
        had.append(jnp.zeros((), dtype).dtype.name)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "torch" or find(name))
    monkeypatch.setattr("launch.bench.Bench", exhausted)
    monkeypatch.setitem(sys.modules, "benchmarks.beside_torch", SimpleNamespace(measure=exhausted))
    monkeypatch.delattr("benchmarks.beside_torch", raising=False)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert launch("bench", config, f"--dtype={dtype}", *words) == 2
    assert capsys.readouterr().err == "error: out of memory with 2 images per step; lower --batch\n"
    assert had == [dtype] and jnp.zeros(()).dtype == "float32"


@pytest.mark.slow
def test_a_twin_of_another_loss_is_not_timed(config, capsys, monkeypatch):
    """A head ten times as large, which the comparison in float64 does not see."""
    pytest.importorskip("torch", reason="pip install -r benchmarks/torch_twin/requirements.txt")
    from benchmarks import beside_torch

    def other(variables):
        return {name: 10 * a if name.startswith("head") else a for name, a in to_torch(variables).items()}

    monkeypatch.setattr(beside_torch, "to_torch", other)
    assert launch("bench", config, "--beside=torch", "--steps=1", "--modes=train") == 2
    assert "train: eager differs by" in capsys.readouterr().err


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
    ]
    for mode in ("inference", "train"):
        assert list(report[mode]) == ["qsdt_jax", "eager", "channels_last", "torch.compile"]
        assert report[mode].pop("torch.compile") == {"failed": "RuntimeError: no compiler"}
        assert f"{mode:<10} torch.compile  not timed: RuntimeError: no compiler\n" in err
        ours = report[mode].pop("qsdt_jax")
        assert "ratio" not in ours and ours["peak_bytes"] is None
        for name, other in report[mode].items():
            assert other["ratio"]["min"] <= other["ratio"]["median"] <= other["ratio"]["max"]
            assert other["deviation"] < 1e-3, (mode, name)
            assert f"{other['images_per_second']:,.2f} images/s" in err
    assert "not measured on CPUs" in err


@pytest.mark.slow
def test_a_way_that_lacks_memory_stops_no_other(config, capsys, monkeypatch):
    torch = pytest.importorskip("torch", reason="pip install -r benchmarks/torch_twin/requirements.txt")
    from benchmarks.beside_torch import Rivals

    step = Rivals._step

    def exhausted(self, name):
        if name == "eager":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 8 GiB")
        return (lambda: torch.empty(2**50)) if name == "torch.compile" else step(self, name)

    monkeypatch.setattr(Rivals, "_step", exhausted)
    assert launch("bench", config, "--beside=torch", "--steps=1", "--modes=inference") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["inference"]
    assert found["eager"] == found["torch.compile"] == {"failed": "out of memory"}
    assert found["channels_last"]["ratio"]["median"] > 0
    assert "inference  eager          not timed: out of memory\n" in err


def test_memory_that_lacks_for_all_ways_is_one_line(config, capsys, monkeypatch):
    torch = pytest.importorskip("torch", reason="pip install -r benchmarks/torch_twin/requirements.txt")
    from benchmarks import beside_torch

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 8 GiB")

    monkeypatch.setattr(beside_torch, "require_equal", lambda task: 0.0)
    monkeypatch.setattr(beside_torch, "Rivals", exhausted)
    assert launch("bench", config, "--beside=torch", "--steps=1") == 2
    told = "inference: torch is out of memory with 2 images per step; lower --batch"
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {told}"
