"""Hardware profiles: against the conventions whose prices they have, by hand, and what is refused."""

import dataclasses
import json
import tomllib

import numpy as np
import pytest

from qsdt_jax.energy.conventions import Energy, Prices
from qsdt_jax.energy.profile import FOLDER, Profile, Routing, load_profile, profile_names
from qsdt_jax.energy.profiled import priced, profile_sentences, profile_table
from qsdt_jax.energy.report import Report, make_report
from qsdt_jax.errors import UserError
from tests.energy.test_traffic import activity, small_program

WIDTHS = "horowitz_widths"


def small_report(images: int = 1) -> Report:
    """Mean counts 1, 1/2, 3/2, 2 and 2 of five neurons, two outputs each in all images."""
    found = activity(neuron=2, q=1, k=3, v=4, head_neuron=4)
    return make_report(small_program(), (4, 4), dataclasses.replace(found, images=images))


def total(parts: dict[str, Energy]) -> np.ndarray:
    return np.sum([tuple(part) for part in parts.values()], axis=0)


def test_profiles_of_the_package_have_the_prices_of_the_conventions():
    report = small_report()
    parts = priced(report, load_profile(WIDTHS))
    assert total(parts) == pytest.approx(tuple(report.totals["with memory"]), rel=1e-12)
    assert parts["arithmetic"] == pytest.approx(tuple(report.totals["bit-aware"]), rel=1e-12)
    floats = priced(report, load_profile("horowitz_float32"))
    assert floats["arithmetic"] == pytest.approx(tuple(report.totals["as computed"]), rel=1e-12)
    assert floats["DRAM"] == parts["DRAM"] and floats["SRAM"] == parts["SRAM"]
    assert profile_names() == ["horowitz_float32", WIDTHS]
    assert all(load_profile(name).sources[0].startswith("M. Horowitz") for name in profile_names())


def test_each_price_has_its_place():
    """One price at a time; numbers of the small network by hand in test_traffic.py."""
    report, free = small_report(images=2), dict.fromkeys(Prices._fields, 0.0)

    def at(spike: float = 0.0, per_rate: float = 0.0, **prices: float) -> dict[str, Energy]:
        routing = Routing(spike=spike, per_rate=per_rate)
        prices_of_one = Prices(**{**free, **prices})
        profile = Profile(name="one", sources=("none",), note="none", prices=prices_of_one, routing=routing)
        return priced(report, profile)

    assert total(at(float_mac=1.0)) == pytest.approx([144, 144, 412])  # Stem; all layers.
    assert total(at(quantized_mac=1.0)) == pytest.approx([0, 412 - 144, 0])
    assert total(at(quantized_add=1.0)) == pytest.approx([3 * 64 + 48 + 16 + 24, 0, 0])
    assert total(at(float_add=1.0)) == pytest.approx([0, 0, 0])
    assert total(at(dram=1.0)) == pytest.approx([12, 12, 96])  # Words of 96 weights of 4 and of 32 bits.
    assert at(sram=1.0)["SRAM"].float_ann == pytest.approx(412 + 124 + 91)
    # Of two images one output of each neuron belongs to one; rates are a quarter of the mean counts.
    spikes = [1, 0.5, 1.5, 2, 2]
    assert total(at(spike=2.0)) == pytest.approx([2 * sum(spikes), 0, 0])
    by_rate = 3 * sum(count * count / 4 for count in spikes)
    assert total(at(per_rate=3.0)) == pytest.approx([by_rate, 0, 0])


def test_the_sentence_follows_from_the_numbers():
    report = small_report()
    profile = load_profile(WIDTHS)
    profile = dataclasses.replace(profile, prices=profile.prices._replace(sram=0.0))
    costly = dataclasses.replace(profile, name="costly", routing=Routing(spike=0.5, per_rate=9.0))
    sentence, *_ = profile_sentences(report, costly)
    heading, *rows = profile_table(report, costly)
    assert heading[1:] == ("spiking", "quantised ANN", "float ANN")
    assert [row[0] for row in rows] == ["arithmetic", "SRAM", "DRAM", "routing", "total"]
    parts = priced(report, costly)
    share = 100 * parts["routing"].spiking / total(parts)[0]
    assert sentence.startswith(f"costly: {rows[-1][1]} mJ an image (arithmetic ")
    assert f"routing {share:.1f} %)" in sentence and rows[3][2:] == ("0", "0")
    # Where they are even: with the routing they are at a lower rate.
    free, turn = (
        float(profile_sentences(report, p)[0].split("even where ")[1].split(" %")[0])
        for p in (profile, costly)
    )
    assert turn < free == 57.5  # 0.23 pJ are 2.3 of 4 additions.
    for shift, cheaper in ((-0.1, True), (0.1, False)):
        rate = (turn + shift) / 100
        histogram = np.array([1e6 * (1 - rate), 0, 0, 0, 1e6 * rate])
        scaled = dict.fromkeys(report.activity.histograms, histogram / 500000.0)  # Two outputs, as measured.
        at_rate = dataclasses.replace(report.activity, histograms=scaled)
        spiking, quantized, _ = total(priced(make_report(small_program(), (4, 4), at_rate), costly))
        assert (spiking < quantized) == cheaper


def test_json_and_toml_are_read_alike(tmp_path):
    content = tomllib.loads((FOLDER / f"{WIDTHS}.toml").read_text())
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    assert load_profile(str(file)) == load_profile(WIDTHS)


@pytest.mark.parametrize(
    ("table", "change", "told"),
    [
        ("memory", {"sram": -5.0}, "a number of picojoule from 0 on as 'memory.sram', found -5.0"),
        ("memory", {"sram": "5 pJ"}, "a number of picojoule from 0 on as 'memory.sram', found '5 pJ'"),
        ("memory", {"sram": True}, "a number of picojoule from 0 on as 'memory.sram', found True"),
        ("memory", {"sram": float("nan")}, "a number of picojoule from 0 on as 'memory.sram', found nan"),
        ("memory", {"sran": 5.0}, "unknown entry 'memory.sran'; did you mean 'memory.sram'?"),
        ("memory", {"sram": None}, "entry 'memory.sram' is missing"),
        ("routing", None, "entry 'routing.spike' is missing"),
        ("routing", 3, "expected a table as 'routing', found 3"),
        ("colour", "blue", "unknown entry 'colour'"),
        ("name", 7, "expected text as 'name', found 7"),
        ("sources", [], "expected a list of lines as 'sources', found []"),
    ],
)
def test_wrong_entries_are_one_line(table, change, told, tmp_path):
    content = tomllib.loads((FOLDER / f"{WIDTHS}.toml").read_text())
    entries = {**content[table], **change} if isinstance(change, dict) else change
    content[table] = (
        {k: v for k, v in entries.items() if v is not None} if isinstance(entries, dict) else entries
    )
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(UserError) as raised:
        load_profile(str(file))
    assert str(raised.value).startswith(f"{file}: ") and str(raised.value).endswith(told)


def test_what_is_no_profile_is_one_line(tmp_path):
    with pytest.raises(
        UserError, match=r"^expected .* found 'horowitz_width'; did you mean 'horowitz_widths'"
    ):
        load_profile("horowitz_width")
    with pytest.raises(UserError, match=r"gone\.toml cannot be read: No such file or directory$"):
        load_profile(str(tmp_path / "gone.toml"))
    for name, text in (("a.toml", b"name ="), ("b.json", b"{"), ("c.toml", b"\xff")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(UserError, match=rf"{name}: expected {name[2:].upper()}; ") as raised:
            load_profile(str(tmp_path / name))
        assert "\n" not in str(raised.value)
    (tmp_path / "d.json").write_text("[1]")
    with pytest.raises(UserError, match=r"d\.json: expected a table of entries, found list$"):
        load_profile(str(tmp_path / "d.json"))
