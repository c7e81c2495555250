"""docs/ablations.md and docs/results.md say of the studies what their CSV files give."""

import csv
import importlib
import re
from pathlib import Path

import pytest

from qsdt_jax.evaluate.comparison import FEWEST_SEEDS, Row, difference, markdown
from qsdt_jax.metric import Metric
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.detection import Detection
from qsdt_jax.tasks.semantic import SemanticSegmentation

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "ablations.md").read_text()
# The files in the order of their tables, and the study of each.
STUDIES = {
    "components": "components",
    "components_12_seeds": "components",
    "weight_bits": "weight_bits",
    "levels_timesteps": "levels_timesteps",
    "modules": "modules",
    "modules_10_seeds": "modules",
    "surrogates": "surrogates",
    "scenes": "scenes",
    "scenes_det": "scenes_det",
    "baselines": "baselines",
}
TASKS = {"scenes": SemanticSegmentation, "scenes_det": Detection}  # All others classify.
SHORTER = {"straight through, layer scale 0.1, attention scale 0.25": "straight through"}
TABLE = re.compile(r"^\| row \| test .*\n(?:\|.*\n)+", re.MULTILINE)


def metric_of(file: str) -> Metric:
    return TASKS.get(STUDIES[file], Classification).metrics[0]


def records(file: str) -> list[dict[str, str]]:
    with (ROOT / "docs" / "ablations" / f"{file}.csv").open() as stream:
        return [{**line, "row": SHORTER.get(line["row"], line["row"])} for line in csv.DictReader(stream)]


def rows(file: str) -> dict[str, Row]:
    scores: dict[str, dict[int, float]] = {}
    for line in records(file):
        scores.setdefault(line["row"], {})[int(line["seed"])] = float(line[metric_of(file).name])
    return {name: Row(name=name, scores=found) for name, found in scores.items()}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


@pytest.mark.parametrize("file", STUDIES)
def test_table_is_that_of_the_file(file):
    """All columns of scores and comparisons; speeds and spikes stand behind them."""
    against = getattr(importlib.import_module(f"configs.ablations.{STUDIES[file]}"), "AGAINST", {})
    table = markdown(list(rows(file).values()), f"test {metric_of(file).label}", against=against)
    expected = cells(table.partition("\n\n")[0])
    found = cells(TABLE.findall(TEXT)[list(STUDIES).index(file)])
    assert [line[: len(expected[0])] for line in found] == expected
    assert f"`ablations/{file}.csv`" in TEXT


def test_every_file_has_its_table():
    assert {file.stem for file in (ROOT / "docs" / "ablations").glob("*.csv")} == set(STUDIES)
    assert len(TABLE.findall(TEXT)) == len(STUDIES)


def test_further_differences():
    """The second table of study 1, which has too few seeds for a verdict."""
    lines = cells(TEXT[TEXT.index("| row | minus |") :].partition("\n\n")[0])[2:]
    found = rows("components")
    assert len(lines) == 7
    for row, other, mean, extent in lines:
        delta = difference(found[row], found[other])
        assert len(delta.by_seed) < FEWEST_SEEDS
        assert mean == f"{delta.mean:+.2f}"
        assert extent == f"{min(delta.by_seed):+.2f} to {max(delta.by_seed):+.2f}"


def p_of(file: str, row: str, other: str) -> float:
    delta = difference(rows(file)[row], rows(file)[other])
    assert len(delta.by_seed) >= FEWEST_SEEDS
    return delta.p


def test_every_p_in_words_is_that_of_enough_seeds():
    """Each p in the prose of both pages is one of the sign-flip test with 10 or 12 seeds."""
    pairs = {
        "components_12_seeds": [
            *((row, "IE-LIF") for row in rows("components_12_seeds")),
            ("LIF, T = 4", "IE-LIF, D = 1"),
            ("LIF, T = 4", "IE-LIF, FGD"),
            ("I-LIF", "LIF, T = 4"),
            ("I-LIF", "float twin"),
        ],
        "modules_10_seeds": [
            (row, base) for row in rows("modules_10_seeds") for base in ("all 4 bits", "all float")
        ],
    }
    known = {f"{p_of(file, *pair):.3f}" for file, of in pairs.items() for pair in of}
    prose = re.sub(r"^\|.*$", "", TEXT, flags=re.MULTILINE)
    said = re.findall(r"\(p\s+(0\.\d{3})\b", prose + (ROOT / "docs/results.md").read_text())
    assert len(said) >= 10 and set(said) <= known


def test_results_hide_no_row():
    """A study's line in docs/results.md has the mean of each main row, of those that disappoint too."""
    lines = {
        line.split(" | ")[0]: line
        for line in (ROOT / "docs/results.md").read_text().splitlines()
        if line.startswith("| study of ")
    }
    bits = next(line for name, line in lines.items() if "weight bits" in name)
    for row in ("32 bits", "8 bits", "4 bits", "3 bits", "2 bits", "1 bit"):
        assert f"{rows('weight_bits')[row].mean:.1f}" in bits, row
    components = next(line for name, line in lines.items() if "components" in name)
    for row in ("IE-LIF", "IE-LIF, D = 1", "I-LIF", "LIF, T = 4", "float twin"):
        assert f"{rows('components_12_seeds')[row].mean:.1f}" in components, row
    for row in ("IE-LIF", "LIF, T = 1", "IE-LIF, FGD, logit KD"):
        assert f"{rows('components')[row].mean:.1f}" in components, row
