"""A moving camera before the digits."""

import pickle

import numpy as np
import pytest

from qsdt_jax.data.events.frames import make_frames
from qsdt_jax.data.events.simulated import (
    DARKNESS,
    DIRECTIONS,
    STEPS_A_LEG,
    THRESHOLD,
    DigitEvents,
    _log_brightness,
    camera_events,
    saccades,
    sweep,
)


def test_a_still_camera_sees_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    assert len(camera_events(picture, np.zeros((5, 2)))) == 0


def test_events_of_a_step_edge_worked_out_by_hand():
    picture = np.zeros((1, 6), np.uint8)
    picture[0, 3:] = 255
    # The picture moves one pixel to the left: pixel 2 becomes white, the last one black from outside.
    events = camera_events(picture, np.array([(0.0, 0.0), (0.0, -1.0)]))
    times = int(np.log((1 + DARKNESS) / DARKNESS) / THRESHOLD)
    assert [(int(e["x"]), int(e["p"])) for e in events] == [(2, 1)] * times + [(5, 0)] * times
    assert set(events["t"].tolist()) == {1000} and set(events["y"].tolist()) == {0}


def test_brightness_is_recovered_up_to_the_threshold():
    picture = np.random.default_rng(1).integers(0, 256, (16, 16), np.uint8)
    path = saccades(np.random.default_rng(2))
    events = camera_events(picture, path)
    change = _log_brightness(picture, path[-1]) - _log_brightness(picture, path[0])
    net = make_frames(events, (16, 16), (16, 16), 1, "count")[0]
    assert np.abs(change - (net[..., 1] - net[..., 0]) * THRESHOLD).max() < THRESHOLD


@pytest.mark.parametrize("direction", range(4))
def test_a_sweep_sets_out_in_its_direction_and_comes_back(direction):
    path = sweep(direction, np.random.default_rng(0))
    first, middle, last = path[0], path[STEPS_A_LEG], path[-1]
    np.testing.assert_allclose(first, last)
    down, right = np.sign(np.round(middle - first))
    expected = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}[DIRECTIONS[direction]]
    assert (down, right) == expected


def test_opposite_sweeps_are_one_another_in_another_order():
    right, left = (sweep(i, np.random.default_rng(0)) for i in (0, 1))
    half = STEPS_A_LEG
    np.testing.assert_allclose(right[half:], left[: half + 1], atol=1e-12)


def test_streams_are_functions_of_the_index_and_sorted_in_time():
    source, again = DigitEvents("test"), pickle.loads(pickle.dumps(DigitEvents("test")))
    assert len(source) == 360 and len(DigitEvents("train")) == 1437
    for i in (0, 200):
        first, second = source[i], again[i]
        np.testing.assert_array_equal(first["events"], second["events"])
        assert (np.diff(first["events"]["t"].astype(np.int64)) >= 0).all()
        assert first["label"] == second["label"] == source._digits[i]["label"]
        assert int(first["events"]["x"].max()) < 32 and first["sensor_size"] == (32, 32)


def test_directions_are_about_evenly_drawn():
    source = DigitEvents("test", "sweep")
    assert source.class_names == DIRECTIONS
    counts = np.bincount([source[i]["label"] for i in range(len(source))], minlength=4)
    assert counts.min() > 60
