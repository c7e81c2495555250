import csv
import io
import math

import numpy as np
import pytest

from qsdt_jax.deploy.agreement import training_form
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.program import Fire
from qsdt_jax.energy.conventions import CONVENTIONS
from qsdt_jax.energy.rates import Activity, measure_activity, neurons_of
from qsdt_jax.energy.report import csv_table, make_report, neurons_table, totals_table, verdicts
from qsdt_jax.tasks.accuracy import Accuracy
from qsdt_jax.tasks.mean_iou import MeanIoU
from tests.deploy.nets import draw_images, draw_variables, short_net
from tests.deploy.test_maps import small_program


@pytest.mark.slow
def test_activity_of_a_split_with_padding():
    """Against the counts of the flax network, image by image."""
    model = short_net()
    variables, images = draw_variables(model), draw_images(5, 32, 32, 3)
    outputs, counts = training_form(model, variables)(images)
    logits = outputs["logits"]
    labels = np.array(np.argmax(logits, 1))
    labels[3] += 1  # One is wrong.
    labels %= 10
    padded = [
        {"image": images[:3], "label": labels[:3], "mask": np.ones(3)},
        {"image": images[[3, 4, 0]], "label": labels[[3, 4, 0]], "mask": np.array([1, 1, 0])},
    ]
    activity = measure_activity(fold(model, variables), padded, Accuracy())
    assert activity.images == 5 and activity.metrics["top1"] == pytest.approx(80)
    assert activity.histograms.keys() == counts.keys()
    for name, expected in counts.items():
        found = np.bincount(np.asarray(expected, np.int64).reshape(-1), minlength=5)
        assert np.array_equal(activity.histograms[name], found), name
        assert activity.count(name) == pytest.approx(np.mean(expected))
        assert activity.firing_rate(name) == pytest.approx(np.mean(expected) / 4)


@pytest.mark.parametrize("bucket", [(32, 32), (48, 64)])
def test_padding_of_an_image_is_not_counted(bucket):
    """Each neuron has as many counts as places inside the image, alone and in a larger bucket."""
    small, size = small_program(timesteps=2), (19, 30)
    program = small.replace(steps=(*small.steps, Fire(name="fine", input="wide", input_gain=1.0)))
    image = np.zeros((1, *bucket, 3), np.float32)
    image[:, : size[0], : size[1]] = draw_images(1, *size, 3)
    batch = {
        "image": image,
        "size": np.array([size], np.int32),
        "annotation": np.zeros((1, *bucket), np.uint8),
        "mask": np.ones(1, np.int32),
    }
    activity = measure_activity(program, [batch], MeanIoU())
    for name, stride in (("neuron", 16), ("fine", 8)):
        rows, columns = (math.ceil(side / stride) for side in size)
        assert activity.histograms[name].sum() == 2 * rows * columns * 4, name


def activity_at(program, rate: float) -> Activity:
    """Every neuron fires with one rate: all slots of some positions, none of the others."""
    silent_and_full = np.array([1e6 * (1 - rate), 0, 0, 0, 1e6 * rate])
    return Activity(dict.fromkeys(neurons_of(program), silent_and_full), {"top1": 50.0}, 1)


def test_verdicts_turn_where_they_say():
    model = short_net()
    program = fold(model, draw_variables(model))
    report = make_report(program, (32, 32), activity_at(program, 0.3))
    *sentences, quoted = verdicts(report)
    assert "spikes pay below about 6 % firing" in quoted
    _, *rows, last = totals_table(report)
    assert last == ("a study, quoted", "", "", "", "6 %")
    for name, sentence, row in zip(CONVENTIONS, sentences, rows, strict=True):
        assert sentence.startswith(f"{name}: ") and row[0] == name
        assert ("even where" in sentence and "here 30.0 % do" in sentence) or row[-1] == "no rate"
        if "even" not in sentence:
            totals = [make_report(program, (32, 32), activity_at(program, r)).totals[name] for r in (0, 1)]
            assert len({total.spiking < total.quantized_ann for total in totals}) == 1
            continue
        turn = float(sentence.split("even where ")[1].split(" %")[0]) / 100
        assert row[-1] == f"{100 * turn:.1f} %"
        below, above = (
            make_report(program, (32, 32), activity_at(program, turn + d)).totals[name] for d in (-2e-3, 2e-3)
        )
        assert below.spiking < below.quantized_ann and above.spiking > above.quantized_ann


def test_firing_rate_is_weighted_by_what_a_spike_drives():
    """A full neuron before one layer: as much of all slots as this layer has of the driven operations."""
    model = short_net()
    program = fold(model, draw_variables(model))
    activity = activity_at(program, 0.0)
    name = "block3_0/mlp/neuron2"
    full = Activity({**activity.histograms, name: np.array([0, 0, 0, 0, 1])}, activity.metrics, 1)
    report = make_report(program, (32, 32), full)
    driven = [row.layer for row in report.layers if row.layer.spikes]
    (own,) = (layer.macs for layer in driven if layer.spikes == name)
    assert report.firing_rate == pytest.approx(own / sum(layer.macs for layer in driven))


def test_csv_adds_up():
    model = short_net()
    program = fold(model, draw_variables(model))
    report = make_report(program, (32, 32), activity_at(program, 0.3))
    rows = list(csv.DictReader(io.StringIO(csv_table(report))))
    assert sum(int(row["macs"]) for row in rows) == report.macs
    for name, total in report.totals.items():
        found = sum(float(row[f"{name} spiking pJ"]) for row in rows)
        assert found == pytest.approx(total.spiking, rel=1e-5)
    # The energy by the paper's convention follows from a row alone.
    stem, *others = rows
    assert stem["entering"] == stem["firing_rate"] == "" and stem["input"] == "real"
    for row in others:
        count = float(row["firing_rate"]) * int(row["D"])
        assert float(row["paper spiking pJ"]) == pytest.approx(0.9 * int(row["macs"]) * count, rel=1e-5)
    assert {row["T"] for row in rows} == {"1"}
    assert (stem["inputs"], stem["outputs"]) == (str(32 * 32 * 3), str(16 * 16 * 4))


def test_table_of_neurons():
    model = short_net()
    program = fold(model, draw_variables(model))
    names = neurons_of(program)
    histograms = {name: np.array([4, 3, 2, 1, i]) for i, name in enumerate(names)}
    report = make_report(program, (32, 32), Activity(histograms, {"top1": 50.0}, 1))
    rows = list(csv.DictReader(io.StringIO(neurons_table(report))))
    assert [row["neuron"] for row in rows] == names
    assert [int(rows[7][f"count_{c}"]) for c in range(5)] == [4, 3, 2, 1, 7]
    assert float(rows[7]["mean_count"]) == pytest.approx((3 + 4 + 3 + 28) / 17, rel=1e-5)
    assert float(rows[7]["firing_rate"]) == pytest.approx((3 + 4 + 3 + 28) / 17 / 4, rel=1e-5)
