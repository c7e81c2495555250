"""Which bits a layer has by the rules of its network."""

import pytest

from qsdt_jax.layers.bits_rules import BitsRule, bits_of, check_rules
from qsdt_jax.layers.numerics import Numerics

Q, ATTENTION = BitsRule(pattern=".*/attn/q_.*", bits=8), BitsRule(pattern=".*/attn/.*", bits=2)
PARAMS = {
    "head": {"kernel": 0, "bias": 0},
    "block3_0": {
        "attn": {"q_repconv": {"conv1": {"kernel": 0}}, "k_repconv": {"conv1": {"kernel": 0}}},
        "norm": {"scale": 0},
    },
}


def test_the_first_rule_that_matches_the_whole_path_counts():
    path = "block3_0/attn/q_repconv/conv1"
    assert bits_of(path, (Q, ATTENTION), otherwise=4) == 8
    assert bits_of(path, (ATTENTION, Q), otherwise=4) == 2
    assert bits_of(path.replace("q_", "k_"), (Q, ATTENTION), otherwise=4) == 2
    assert bits_of("block3_0/attn", (Q, ATTENTION), otherwise=4) == 4
    assert bits_of("neck/head", (BitsRule(pattern="head", bits=8),), otherwise=4) == 4


def test_numerics_of_a_layer():
    numerics = Numerics(bits=4, bits_rules=(Q, BitsRule(pattern="head", bits=32)))
    assert [numerics.of(path).bits for path in (("head",), ("a", "attn", "q_", ""), ("stem",))] == [32, 8, 4]
    assert numerics.of(("head",)).bits_rules == ()


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ((Q, BitsRule(pattern="heads", bits=8)), "'heads' .* matches no layer; .* like 'head'"),
        ((BitsRule(pattern="block3_0/norm", bits=8),), "matches no layer"),
        ((ATTENTION, Q), "'.*/attn/q_.*' matches only layers that earlier bits rules match"),
    ],
)
def test_a_rule_without_effect(rules, told):
    check_rules((Q, ATTENTION, BitsRule(pattern="head", bits=32)), PARAMS)
    with pytest.raises(ValueError, match=told):
        check_rules(rules, PARAMS)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"pattern": "head", "bits": 9}, "weights have 1 to 8 bits"),
        ({"pattern": "head", "bits": "8"}, "the bits of a bits rule are '8'; expected a whole number"),
        ({"pattern": "head", "bits": 8.0}, "the bits of a bits rule are 8.0; expected a whole number"),
        ({"pattern": "head", "bits": True}, "the bits of a bits rule are True; expected a whole number"),
        ({"pattern": 3, "bits": 8}, "the pattern of a bits rule is 3; expected a text like 'head'"),
        ({"pattern": "(head", "bits": 8}, r"'\(head' is no regular expression: missing \)"),
    ],
)
def test_a_rule_that_is_none(rule, told):
    with pytest.raises(ValueError, match=told):
        BitsRule(**rule)
