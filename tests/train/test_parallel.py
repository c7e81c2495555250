"""Many devices compute what one computes, in every way of spreading a run over them."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from qsdt_jax.assemble.build import build_parallel
from qsdt_jax.errors import UserError
from qsdt_jax.train.optimizer import lamb
from qsdt_jax.train.parallel import Parallel
from tests.configs.tiny import get_config
from tests.train import spread

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Results of `tests.train.spread` on eight forced devices, by case."""
    file = tmp_path_factory.mktemp("spread") / "found.npz"
    command = [sys.executable, "-m", "tests.train.spread", str(file)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # Bits are compared.
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cases: dict[str, dict[str, np.ndarray]] = {}
    with np.load(file) as stored:
        for key in stored.files:
            case, name = key.split(":")
            cases.setdefault(case, {})[name] = stored[key]
    return cases


@pytest.mark.slow
def test_a_segmenter_on_two_devices(tmp_path):
    """A step with pmap: state, statistics and metrics as on one device, where rows differ in padding."""
    file = tmp_path / "found.npz"
    command = [sys.executable, "-m", "tests.train.two_segmenters", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(file) as stored:
        names = [key.partition(":")[2] for key in stored.files if key.startswith("one:")]
        assert 2 * len(names) == len(stored.files) > 200
        for name in names:
            np.testing.assert_allclose(
                stored[f"pmap:{name}"], stored[f"one:{name}"], rtol=1e-8, atol=1e-10, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statistics", "way"),
    [("global", "jit"), ("global", "fsdp"), ("global", "pmap"), ("device", "jit"), ("device", "pmap")],
)
def test_training_agrees_with_one_device(found, statistics, way):
    """State, metrics, statistics and moving average after five steps; "device" in two micro-batches."""
    expected, got = found[f"{statistics}/one"], found[f"{statistics}/{way}"]
    assert expected.keys() == got.keys() and len(expected) > 40
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_micro_batches_agree_with_the_whole_batch():
    """On one device, with the same groups of statistics and nothing drawn: state and metrics to 1e-9."""
    with jax.enable_x64(True):
        found = [
            spread.trained(on(1), lamb(0.05), norm_group=4, accumulate=parts, drawn=False) for parts in (1, 4)
        ]
    whole, parts = found
    assert whole.keys() == parts.keys() and len(whole) > 40
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_the_groups_of_statistics_matter(found):
    """Else the test above would say nothing about them."""
    name = "variables/params/RepConv_0/conv1/kernel"
    assert np.max(np.abs(found["global/one"][name] - found["device/one"][name])) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pmap", "three"])
def test_evaluation_is_the_same_on_any_number_of_devices(found, way):
    """Logits bit for bit, on 8 and on 3 devices, none of which divides the 21 images; so all counts."""
    expected, got = found["evaluation/one"], found[f"evaluation/{way}"]
    assert expected["logits"].dtype == np.float32 and np.ptp(expected["logits"]) > 0.1
    np.testing.assert_array_equal(got["logits"], expected["logits"])
    np.testing.assert_array_equal(got["gathered"], expected["logits"])
    assert got["top1"] == expected["top1"] and got["top5"] == expected["top5"]
    assert got["loss"] == pytest.approx(float(expected["loss"]), rel=1e-6)


def on(count: int, **options) -> Parallel:
    """As if there were several devices."""
    return Parallel(devices=tuple(jax.devices()[:1]) * count, **options)


@pytest.mark.parametrize(
    ("platform", "options", "flat"),
    [
        ("gpu", {}, True),
        ("gpu", {"mode": "pmap"}, True),
        ("gpu", {"fsdp": 2}, False),
        ("cpu", {}, False),
        ("tpu", {}, False),
    ],
)
def test_where_a_step_joins_tensors(platform, options, flat):
    devices = (SimpleNamespace(platform=platform),) * 2
    assert Parallel(devices=devices, **options).flat_in_step == flat


def test_rows_of_a_batch():
    assert on(1).rows(8) == on(1).rows(8, 2) == on(4).rows(8) == list(range(8))
    # Device 0 has the first quarter of either half, and so on.
    assert on(4).rows(16, 2) == [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
    assert [on(count).evaluation_batch_size(20) for count in (1, 3, 8)] == [20, 21, 24]


@pytest.mark.parametrize(
    ("devices", "options", "batch", "told"),
    [
        (8, {}, (100, 1, 0), "batch_size=100 does not divide over 8 devices"),
        (8, {}, (24, 2, 0), "batch_size=24 does not divide over 8 devices in 2 micro-batches"),
        (1, {}, (16, 3, 0), "accumulate=3 does not divide the batch of 16 images"),
        (1, {}, (16, 2, 3), "norm_group=3 does not divide the 8 images of a micro-batch"),
        (8, {"fsdp": 3}, (8, 1, 0), "fsdp=3 does not divide the 8 devices"),
        (
            8,
            {"fsdp": 2, "mode": "pmap"},
            (8, 1, 0),
            "fsdp=2 needs mode='jit'",
        ),
        (1, {"mode": "tpu"}, (8, 1, 0), "mode='tpu' is none of jit, pmap"),
        (2, {"mode": "pmap"}, (16, 2, 8), "norm_group=8 does not divide the 4 images"),
    ],
)
def test_what_does_not_divide_is_refused(devices, options, batch, told):
    with pytest.raises(UserError) as error:
        on(devices, **options).check_batch(*batch)
    assert str(error.value).startswith(told)


def test_config():
    config = get_config()
    config.parallel.mode = "pmap"
    assert build_parallel(config) == Parallel(mode="pmap")
    config.parallel.fsdp = 2
    with pytest.raises(UserError, match=r"config.parallel.fsdp=2 does not divide the 1 devices"):
        build_parallel(config)
    config.parallel.fsdp, config.batch_size, config.accumulate, config.model.norm_group = 1, 16, 2, 3
    with pytest.raises(UserError, match=r"config.model.norm_group=3 does not divide the 8 images"):
        build_parallel(config)
    config.accumulate = 3
    with pytest.raises(UserError, match=r"config.accumulate=3 does not divide the batch of 16 images"):
        build_parallel(config)
