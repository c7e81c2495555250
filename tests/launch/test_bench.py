import json
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest

from configs.digits import get_config
from launch.bench import network_table
from qsdt_jax.inspect.speed import Bench
from tests.launch.tiny import launch

ROOT = Path(__file__).parents[2]
CONFIG = """
from qsdt_jax.configuration.defaults import base_config

def get_config():
    config = base_config()
    config.model.channels, config.model.depth, config.model.num_heads = (8, 8, 8, 8), 2, 2
    config.model.norm_group = 4
    config.data.source, config.data.image_size = "folder", (16, 16)
    return config
"""


@jax.tree_util.register_static
class Linear:
    """A task and its model in one. Timing is the same whatever the network is; this one compiles at once."""

    image_shape = (32, 32, 1)

    @property
    def model(self):
        return self

    @property
    def backbone(self):
        return self

    def clone(self, **fields):
        return self

    def apply(self, variables, images):
        return images.reshape(-1, 1024) @ variables["params"]["w"]

    def init(self, key):
        return {"params": {"w": jnp.ones((1024, 3))}, "batch_stats": {}}

    def loss(self, variables, batch, key, step):
        loss = jnp.mean(self.apply(variables, batch["image"]) ** 2)
        return loss, ({}, {"loss": loss})


def check_rates(result: dict, batch: int) -> None:
    seconds = result["step_seconds"]
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert result["images_per_second"] == pytest.approx(batch / seconds["median"])
    assert result["spread"] == pytest.approx((seconds["max"] - seconds["min"]) / seconds["median"])
    assert result["compile_seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("modes", ["input", "inference,exact,integer,train,input,loop"])
def test_report(modes, tmp_path, capsys):
    config = tmp_path / "small.py"
    config.write_text(CONFIG)
    words = ("--batch=2", "--steps=3", f"--modes={modes}", "--dtype=bfloat16")
    assert launch("bench", f"--config={config}", *words) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)  # Nothing but JSON on stdout.
    timed = modes.replace("integer", "integer,onnx").split(",")
    assert list(report) == ["setting", *timed, "provenance"]
    setting = report["setting"]
    assert (setting["batch"], setting["dtype"], setting["config"]) == (2, "bfloat16", str(config))
    assert [remark.split(":")[0] for remark in setting["remarks"]] == [
        "norm_group 4 does not divide the batch",
        "fake data only",
    ]
    for mode in {"inference", "exact", "integer", "train"} & set(report):
        check_rates(report[mode], 2)
        assert report[mode]["memory_bytes"]["arguments"] > 0
    if "onnx" in report:
        check_rates(report["onnx"], 2)
    assert list(report["input"]) == ["fake"]
    assert report["input"]["fake"]["batches"] >= 3
    assert report["input"]["fake"]["images_per_second"] > 0
    assert report["provenance"]["versions"]["jax"]
    assert "fake data only" in err
    assert f"{report['input']['fake']['images_per_second']:,.1f} images/s" in err


@pytest.mark.slow
def test_json_goes_to_a_file(tmp_path, capsys):
    file = tmp_path / "bench.json"
    digits = f"--config={ROOT}/configs/digits.py"
    assert launch("bench", digits, "--size=XS", "--modes=input", "--steps=1", "--json", file) == 0
    assert capsys.readouterr().out == ""
    report = json.loads(file.read_text())
    assert report["setting"]["channels"] == [48, 96, 192, 256]
    assert list(report["input"]) == ["fake", "digits"]


@pytest.mark.slow
def test_rates():
    bench = Bench(get_config(), 7)
    bench.task = cast(Any, Linear())
    inference, train, loop = bench.inference(exact=True), bench.train(), bench.loop()
    batch, macs = 64, bench.setting()["macs_per_image"]
    check_rates(inference, batch)
    check_rates(train, batch)
    assert inference["memory_bytes"]["new_output"] == batch * 3 * 4
    assert train["model_gflops_per_second"] == pytest.approx(6 * macs * train["images_per_second"] / 1e9)
    assert train["memory_bytes"]["new_output"] < 200  # The state is donated: only the metrics are new.
    assert loop["data"] == "digits"
    assert loop["images_per_second"] < train["images_per_second"]
    assert 0.5 < loop["input_wait_share"] <= 1  # Digits are drawn more slowly than this net learns.
    text = network_table({"setting": {**bench.setting(), "remarks": []}, "train": train, "loop": loop})
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["train", "loop"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--size=Q", "should be one of <S|M|L"),
        ("--batch=0", "flag --batch=0"),
        (
            "--modes=train,sleep",
            "--modes=train,sleep: the modes are inference, exact, integer, train, input, loop",
        ),
        ("--config.model.bits=2", "--config.KEY=VALUE needs --config FILE before it"),
        ("--json=missing/bench.json", "--json missing/bench.json cannot be written"),
    ],
)
def test_mistakes_are_one_line(argument, message, capsys):
    assert launch("bench", argument) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_segmenter(capsys):
    """On images with their sizes."""
    tiny = ROOT / "tests" / "configs" / "tiny_seg.py"
    assert launch("bench", f"--config={tiny}", "--steps=2", "--modes=inference,integer") == 0
    report = json.loads(capsys.readouterr().out)
    check_rates(report["inference"], 4)
    check_rates(report["integer"], 4)
    check_rates(report["onnx"], 4)
