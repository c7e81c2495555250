"""Numbers that no run has are refused at once, wherever a config comes from; so is what fits no memory."""

import json
import time

import ml_collections
import pytest

from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.network import build_model
from qsdt_jax.configuration.defaults import KEYS, base_config
from qsdt_jax.configuration.keys import config_keys, value_of
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.study import Study, Variant
from qsdt_jax.loading.trained import stored_config
from tests.configs.tiny import get_config
from tests.launch.processes import TINY
from tests.launch.tiny import launch

# The seed may be as large as its limit; of the others see tests/assemble/{test_annotated,test_build}.py.
APART = ("seed", "data.buckets", "loss.class_weights", "resformer.channels")
OPTIONAL = "model.attention_threshold"  # A number, or None.
LARGEST = {name: key.limit for name, key in KEYS.items() if key.limit is not None and name not in APART}
SECONDS = 10  # For a machine that does much else.
# Checked where they are used, to stricter bounds; or without effect, however large.
ELSEWHERE = {
    *("seed", "ema_decay", "loss.label_smoothing", "model.drop_path", "model.bits"),
    *("data.crop_area", "data.crop_aspect", "data.randaugment_magnitude", "data.randaugment_std"),
    *("data.resize_ratio", "data.largest_share", "data.crop_sides", "detection.score_threshold"),
    "optimizer.drops",
    *("data.erase_probability", "data.eval_crop_ratio", "data.roll", "data.digits_noise"),
    *("data.corrupt_limit", "eval.every_epochs", "optimizer.warmup_epochs", "log.every_steps"),
    *("checkpoint.every_steps", "checkpoint.keep_latest", "checkpoint.keep_best"),
}


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def test_every_number_has_a_bound():
    config = base_config()
    numbers = set()
    for key in config_keys(config):
        value = value_of(config, key)
        several = isinstance(value, tuple) and value and all(map(is_number, value))
        if is_number(value) or several or key == OPTIONAL:
            numbers.add(key)
    assert numbers - ELSEWHERE == set(LARGEST)
    for key, largest in LARGEST.items():
        value = value_of(config, key) or 0
        assert max(value if isinstance(value, tuple) else (value,)) < largest


@pytest.mark.parametrize("key", sorted(LARGEST))
def test_refused_on_the_command_line(key, tmp_path, capsys):
    default = value_of(base_config(), key)
    number = "1e39" if isinstance(LARGEST[key], float) else str(2**40)
    shown = f"({', '.join([number] * len(default))})" if isinstance(default, tuple) else number
    start = time.monotonic()
    assert launch(TINY, f"--workdir={tmp_path}/w", f"--config.{key}={shown}") == 2
    assert time.monotonic() - start < SECONDS
    told = capsys.readouterr().err
    assert told.startswith(f"error: config.{key}=") and " must be at most " in told
    assert told.count("\n") == 1 and not (tmp_path / "w").exists()


def test_channels_that_have_no_default_are_bounded_too(tmp_path, capsys):
    number = 2**40
    assert launch(TINY, f"--workdir={tmp_path}/w", f"--config.resformer.channels=({number}, 8, 8)") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: config.resformer.channels=") and " must be at most " in told


def test_numbers_that_are_too_long_to_write(capsys, tmp_path):
    assert launch("inspect", TINY, f"--config.model.depth={'9' * 2000}") == 2
    assert capsys.readouterr().err.startswith(
        "error: config.model.depth=a number of more than 30 digits must"
    )
    assert launch("inspect", TINY, "--config.optimizer.learning_rate=nan") == 2
    assert "config.optimizer.learning_rate=nan must be at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag",
    ["--devices=1000000000", "--num_classes=1000000000000", "--batch=1000000000000"],
)
def test_flags_that_are_numbers(flag, capsys):
    assert launch("inspect", TINY, flag) == 2
    assert flag.partition("=")[0].strip("-") in capsys.readouterr().err


def test_processes_that_nobody_has(capsys, tmp_path):
    train = [TINY, f"--workdir={tmp_path}/w", "--coordinator=a:1", "--process_id=0"]
    assert launch(*train, "--num_processes=1000000000") == 2
    assert launch(*train, "--num_processes=2", "--coordinator_timeout=inf") == 2
    assert launch(*train, "--num_processes=2", "--coordinator_timeout=nan") == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.depth", 10**9),
        ("model.levels", 10**9),
        ("model.timesteps", 2**63),
        ("data.image_size", [2**40, 2**40]),
        ("data.eval_crop_ratio", 1e-30),
        ("optimizer.learning_rate", float("inf")),
        ("model.channels", [8, 8, 16, 10**400]),
    ],
)
def test_refused_in_a_workdir(key, value, tmp_path):
    config = json.loads(get_config().to_json())
    section, _, name = key.rpartition(".")
    (config[section] if section else config)[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"config\.json: config\.{key}=.* must be at "):
        stored_config(tmp_path)


@pytest.mark.parametrize(
    "text", ["[1]", "3", "[" * 100_000, '{"model": 3}', "", "\ufeff{", '{"epochs": "x"}']
)
def test_a_workdir_whose_files_are_others(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        stored_config(tmp_path)


def test_refused_in_a_row_of_a_study(tmp_path):
    study = Study(get_config(), {}, 1, {}, False, tmp_path)
    with pytest.raises(UserError, match=r"row 'deep': config\.model\.depth=1000000000 must be at most 256"):
        study.config(Variant("deep", {"model.depth": 10**9}), 0)


def tiny(**changes) -> ml_collections.ConfigDict:
    config = get_config()
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"batch_size": 2**24, "data.fake_images": 2**25, "data.image_size": (4096, 4096)},
            r"the images of config\.batch_size=16777216 would take 3,377,699.7 GB; this machine has",
        ),
        (
            {"eval.batch_size": 2**24, "data.image_size": (4096, 4096)},
            r"the images of config\.eval\.batch_size=16777216 would take",
        ),
        (
            {"epochs": 2**26},
            r"config\.epochs=67108864 of 5 steps are 335,544,320; expected at most 67,",
        ),
        (
            {"data.source": "digits", "data.image_size": (2**14, 2**14), "data.channels": 1},
            r"1437 digits of 16384x16384 pixels would take 385\.\d GB",
        ),
    ],
)
def test_what_fits_no_memory(changes, told):
    with pytest.raises(UserError, match=told):
        build_run(tiny(**changes))


def test_weights_that_fit_no_memory():
    config = tiny(**{"model.channels": (8, 8, 2**16, 2**16), "model.mlp_ratio": 2**8})
    with pytest.raises(UserError, match=r"the weights of config\.model would take [\d,]+\.\d GB; this"):
        build_model(config, 10)
