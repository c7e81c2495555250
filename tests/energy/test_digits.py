"""What `docs/energy.md` says of the digits network as it was exported."""

from pathlib import Path

import pytest

from configs.digits import get_config
from qsdt_jax.assemble.split import Split
from qsdt_jax.data.classes import named
from qsdt_jax.deploy.bundle import bundle_bytes, read_bundle, write_bundle
from qsdt_jax.energy.profile import load_profile
from qsdt_jax.energy.profiled import profile_table
from qsdt_jax.energy.rates import measure_activity
from qsdt_jax.energy.report import make_report, neurobench_table, totals_table
from qsdt_jax.tasks.accuracy import Accuracy

FILE = Path(__file__).parents[1] / "golden" / "digits.qsdt"


@pytest.mark.slow
def test_numbers_of_the_docs(tmp_path):
    bundle = read_bundle(FILE)
    batches = Split(get_config(), "test", named("the bundle", bundle.class_names)).batches("measured")
    activity = measure_activity(bundle.program, batches, Accuracy())
    report = make_report(bundle.program, bundle.image_size, activity)
    assert report.activity.images == 360
    assert report.activity.metrics["top1"] == pytest.approx(100 * 355 / 360)
    assert (report.macs, report.multiplications) == (6_541_952, 437_504)
    assert f"{report.additions / 1e6:.2f} {100 * report.firing_rate:.1f}" == "8.34 34.2"
    parts = {"stem": 100_352, "sepconv": 131_072, "repconv": 206_080}
    real = [row.layer for row in report.layers if not row.layer.spikes]
    for part, macs in parts.items():
        name = "downsample1_1" if part == "stem" else part
        assert sum(layer.macs for layer in real if name in layer.name) == macs
    assert totals_table(report)[1:-1] == [
        ("paper", "0.008343", "0.03009", "0.03009", "no rate"),
        ("as computed", "0.009518", "0.03009", "0.03009", "no rate"),
        ("bit-aware", "0.002846", "0.003417", "0.03009", "57.5 %"),
        ("with memory", "0.04459", "0.0417", "0.3326", "17.9 %"),
    ]
    assert [text for _, text in neurobench_table(report)[1:]] == [
        "0.2374", "0.6699", "329,985", "5,060,017", "44,928"
    ]  # fmt: skip
    assert profile_table(report, load_profile("horowitz_widths"))[1:] == [
        ("arithmetic", "0.002846", "0.003417", "0.03009"),
        ("SRAM", "0.00811", "0.004645", "0.03344"),
        ("DRAM", "0.03364", "0.03364", "0.2691"),
        ("routing", "0", "0", "0"),
        ("total", "0.04459", "0.0417", "0.3326"),
    ]
    sizes = bundle_bytes(bundle)
    assert sizes == {"weights": 210_236, "scales and shifts": 36_752, "manifest": 33_600}
    write_bundle(tmp_path / "again.qsdt", bundle)  # As files are written now, with the names of outputs.
    assert sum(sizes.values()) == (tmp_path / "again.qsdt").stat().st_size == FILE.stat().st_size + 64
