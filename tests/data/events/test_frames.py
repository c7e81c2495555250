"""Frames of events, against a loop over the events."""

import numpy as np
import pytest

from qsdt_jax.data.events.frames import EventPreprocess, make_frames, random_flip, random_roll
from qsdt_jax.data.events.record import EVENT
from qsdt_jax.errors import UserError


def stream(length: int, seed: int, sensor=(12, 20)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    events = np.empty(length, EVENT)
    events["t"] = np.sort(generator.integers(1000, 9000, length))
    events["y"], events["x"] = (generator.integers(0, size, length) for size in sensor)
    events["p"] = generator.integers(0, 2, length)
    return events


def slow_frames(events, sensor, size, timesteps, slicing):
    frames = np.zeros((timesteps, *size, 2), np.float32)
    first, last = int(events["t"][0]), int(events["t"][-1])
    for i, event in enumerate(events):
        if slicing == "count":
            frame = i * timesteps // len(events)
        else:
            frame = (int(event["t"]) - first) * timesteps // (last - first + 1)
        row, column = int(event["y"]) * size[0] // sensor[0], int(event["x"]) * size[1] // sensor[1]
        frames[frame, row, column, event["p"]] += 1
    return frames


@pytest.mark.parametrize("slicing", ["count", "time"])
@pytest.mark.parametrize(
    ("size", "timesteps", "length"), [((12, 20), 4, 203), ((6, 10), 3, 50), ((24, 40), 1, 7)]
)
def test_counts_every_event_once(slicing, size, timesteps, length):
    events = stream(length, seed=length)
    found = make_frames(events, (12, 20), size, timesteps, slicing)
    assert found.dtype == np.float32 and found.sum() == length
    np.testing.assert_array_equal(found, slow_frames(events, (12, 20), size, timesteps, slicing))


def test_times_that_are_out_of_order():
    """As recordings have them where their clock is set back."""
    events = stream(100, 1)
    mixed = np.random.default_rng(2).permutation(events)
    found, expected = (make_frames(e, (12, 20), (12, 20), 4, "time") for e in (mixed, events))
    np.testing.assert_array_equal(found, expected)


def test_equal_counts_differ_by_one_at_most():
    found = make_frames(stream(103, 0), (12, 20), (12, 20), 4, "count").sum((1, 2, 3))
    assert found.max() - found.min() <= 1


def test_fewer_events_than_frames_and_a_single_instant():
    assert make_frames(stream(2, 0), (12, 20), (12, 20), 8, "count").sum() == 2
    events = stream(5, 0)
    events["t"] = 77
    assert make_frames(events, (12, 20), (12, 20), 3, "time").sum((1, 2, 3)).tolist() == [5, 0, 0]


def test_the_sum_knows_no_order_of_time():
    events = stream(200, 3)
    turned = events[::-1].copy()
    turned["t"] = events["t"]
    forth, back = (make_frames(e, (12, 20), (12, 20), 4, "sum") for e in (events, turned))
    np.testing.assert_array_equal(forth, back)
    np.testing.assert_array_equal(forth[0], forth[3])
    assert forth.sum() == 200


def test_flip_and_roll_are_those_of_the_frames():
    events, sensor = stream(100, 5), (12, 20)
    frame = make_frames(events, sensor, sensor, 1, "count")
    seen = set()
    for seed in range(30):
        rolled = random_roll(events, np.random.default_rng(seed), sensor, roll=3)
        generator = np.random.default_rng(seed)
        down, right = (int(generator.integers(-3, 4)) for _ in range(2))
        seen.add((down, right))
        expected = np.roll(frame, (down, right), (1, 2))
        np.testing.assert_array_equal(make_frames(rolled, sensor, sensor, 1, "count"), expected)
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(-3, 4))
    flipped = [random_flip(events, np.random.default_rng(seed), 20) for seed in range(200)]
    mirrored = [not np.array_equal(e["x"], events["x"]) for e in flipped]
    assert 70 < sum(mirrored) < 130
    mirror = flipped[mirrored.index(True)]
    np.testing.assert_array_equal(make_frames(mirror, sensor, sensor, 1, "count"), frame[:, :, ::-1])


def test_preprocess_is_a_function_of_its_generator_and_leaves_the_stream_alone():
    events = stream(300, 9)
    example = {"events": events.copy(), "sensor_size": (12, 20), "label": 3}
    preprocess = EventPreprocess(size=(12, 20), timesteps=4, augmentation="flip_roll", roll=2)
    first, again, other = (preprocess.train(example, np.random.default_rng(s)) for s in (0, 0, 1))
    assert first["image"].shape == (4, 12, 20, 2) and first["label"] == 3
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()
    np.testing.assert_array_equal(example["events"], events)
    plain = preprocess.evaluate(example)["image"]
    np.testing.assert_array_equal(plain, slow_frames(events, (12, 20), (12, 20), 4, "count"))


def test_a_third_channel_is_the_sum_of_both():
    example = {"events": stream(300, 9), "sensor_size": (12, 20), "label": 3}
    two, three = (
        EventPreprocess(size=(6, 10), timesteps=4, channels=c, augmentation="flip_roll", roll=2)
        for c in (2, 3)
    )
    for read in (lambda p: p.evaluate(example), lambda p: p.train(example, np.random.default_rng(1))):
        frames, found = read(two)["image"], read(three)["image"]
        assert found.dtype == np.float32 and found.shape == (4, 6, 10, 3)
        np.testing.assert_array_equal(found[..., :2], frames)
        np.testing.assert_array_equal(found[..., 2], frames[..., 0] + frames[..., 1])


@pytest.mark.parametrize(
    ("field", "value"), [("x", 300), ("x", 20), ("y", 12), ("y", -1), ("p", 2), ("p", -2)]
)
def test_events_of_any_source_are_believed_within_their_sensor(field, value):
    """Else column 20 of row 0 would be counted as column 0 of row 1, and column 300 as 44."""
    wide = stream(50, seed=0).astype([("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "i2")])
    example = {"events": wide, "sensor_size": (12, 20), "label": 3}
    preprocess = EventPreprocess(size=(12, 20), timesteps=2, augmentation="flip_roll", roll=1)
    assert preprocess.evaluate(example)["image"].sum() == 50
    wide[field][7] = value
    for read in (preprocess.evaluate, lambda e: preprocess.train(e, np.random.default_rng(0))):
        with pytest.raises(UserError, match=f"^an event stream: has .* {value}"):
            read(example)


def test_a_polarity_of_minus_one_is_darker():
    signed = stream(50, seed=0).astype([("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "i2")])
    preprocess = EventPreprocess(size=(12, 20), timesteps=2)
    expected = preprocess.evaluate({"events": signed, "sensor_size": (12, 20), "label": 0})["image"]
    signed["p"] = 2 * signed["p"] - 1
    found = preprocess.evaluate({"events": signed, "sensor_size": (12, 20), "label": 0})["image"]
    np.testing.assert_array_equal(found, expected)
