"""Keys that a configuration had in older versions."""

from configs.ablations.modules import PARTS, ROWS
from qsdt_jax.workdir import older_config
from qsdt_jax.workdir.older_config import in_todays_keys


def test_bits_of_parts_become_rules():
    then = {"seed": 1, "model": {"bits": 4, "module_bits": {"head": 1, "stem": 0, "q": 8}}}
    rules = [["block.*/attn/q_repconv/.*", 8], ["head(_dist)?", 1]]
    assert in_todays_keys(then) == {"seed": 1, "model": {"bits": 4, "bits_rules": rules}}
    assert then["model"]["module_bits"] == {"head": 1, "stem": 0, "q": 8}
    none = {"model": {"module_bits": dict.fromkeys(older_config.PARTS, 0)}}
    assert in_todays_keys(none) == {"model": {"bits_rules": []}}


def test_todays_and_damaged_configurations_stay():
    for config in ({}, {"model": 3}, {"model": {"bits_rules": [["head", 8]]}}, {"model": {"module_bits": 3}}):
        assert in_todays_keys(config) == config


def test_workdirs_of_the_study_of_modules_go_on():
    """Its rows mean now what they meant then: the same rules, from either side."""
    assert PARTS == older_config.PARTS
    rows = dict(ROWS)
    for part in PARTS:
        [rule] = in_todays_keys({"model": {"module_bits": {part: 32}}})["model"]["bits_rules"]
        assert tuple(rule) in rows[f"{part} float"]["model.bits_rules"]
