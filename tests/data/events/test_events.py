"""Streams of others are believed once their columns prove to be ones, and not cast before."""

import numpy as np
import pytest

from qsdt_jax.data.events.record import EVENT, as_columns, as_events, check_sensor, check_times, recorded
from qsdt_jax.data.events.simulated import DigitEvents
from qsdt_jax.data.sources import FakeEvents
from qsdt_jax.errors import CorruptRecord, UserError

SIZE = (100, 120)


def stream(**changes) -> dict[str, np.ndarray]:
    columns = {"t": [5, 9, 9], "x": [0, 119, 7], "y": [99, 0, 7], "p": [0, 1, 1]}
    return {field: np.asarray(changes.get(field, column)) for field, column in columns.items()}


def refusal(columns) -> str:
    with pytest.raises(CorruptRecord) as caught:
        as_events(columns, SIZE, "cat/7")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_columns_give_the_stream_back():
    events = np.array([(1, 127, 127, 0), (1, 0, 3, 1), (1 << 31, 5, 0, 1)], EVENT)
    columns = as_columns(events, (128, 128))
    assert {name: column.dtype for name, column in columns.items()} == {
        "t": np.uint32,
        "x": np.uint8,
        "y": np.uint8,
        "p": np.uint8,
    }
    np.testing.assert_array_equal(as_events(columns, (128, 128), "a"), events)
    assert as_events(events, (128, 128), "a") is events


def test_columns_of_a_larger_sensor_take_two_bytes():
    events = np.array([(1, 345, 259, 0)], EVENT)
    columns = as_columns(events, (260, 346))
    assert (columns["x"].dtype, columns["y"].dtype) == (np.uint16, np.uint16)
    np.testing.assert_array_equal(as_events(columns, (260, 346), "a"), events)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_whole_numbers_of_any_width(dtype):
    found = as_events({field: column.astype(dtype) for field, column in stream().items()}, SIZE, "a")
    assert found.dtype == EVENT and found.tolist() == [(5, 0, 99, 0), (9, 119, 0, 1), (9, 7, 7, 1)]


def test_a_structured_array_is_a_stream():
    rows = np.array([(9, 1, 2, True)], [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
    assert as_events(rows, SIZE, "a").tolist() == [(2, 9, 1, 1)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 1, 1], [0, 1, 1]),
        ([-1, 1, 1], [0, 1, 1]),
        ([-1, -1, -1], [0, 0, 0]),
        ([1, 1, 1], [1, 1, 1]),
        ([False, True, False], [0, 1, 0]),
        (np.array([0, 0, 1], np.uint16), [0, 0, 1]),
    ],
)
def test_polarities(given, expected):
    assert as_events(stream(p=given), SIZE, "a")["p"].tolist() == expected


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (stream(x=[0, 300, 0]), "has an event at x = 300; the sensor is 100x120"),
        (stream(x=[0, 120, 0]), "has an event at x = 120"),
        (stream(y=[0, 100, 0]), "has an event at y = 100"),
        (stream(y=[0, -1, 0]), "has an event at y = -1"),
        (stream(x=np.array([0.0, 1.0, 2.0])), "x is float64; expected whole numbers"),
        (stream(t=np.array([0.0, 0.1, 0.2], np.float32)), "t is float32; expected whole microseconds"),
        (stream(t=[-1, 0, 1]), "has the times -1 to 1; expected microseconds of 0 to 4294967295"),
        (stream(t=[0, 1, 2**32]), "has the times 0 to 4294967296"),
        (stream(t=[False, True, True]), "t is bool"),
        (stream(p=[-1, 0, 1]), "has the polarities -1, 0, 1; expected 0 and 1, or -1 and 1"),
        (stream(p=[1, 2, 1]), "has the polarities 1, 2"),
        (stream(p=np.array([1, 255, 1], np.uint8)), "has the polarities 1, 255"),
        (stream(p=[-2, 1, 1]), "has the polarities -2, 1"),
        (stream(p=[0.0, 1.0, 1.0]), "p is float64"),
        (stream(x=[1, 2]), "expected t, x, y and p of one length"),
        ({field: column[:, None] for field, column in stream().items()}, "of one length; found t (3, 1)"),
        ({field: column[:0] for field, column in stream().items()}, "has no events"),
        ({"t": [1], "x": [1]}, "has no y, p"),
        (np.zeros((3, 4)), "has no t, x, y, p"),
    ],
)
def test_what_is_no_stream(columns, told):
    assert refusal(columns).startswith(f"cat/7: {told}") or told in refusal(columns)


@pytest.mark.parametrize(
    ("dtype", "ends"),
    [
        (np.int16, (-(2**15), 2**15 - 1)),
        (np.int32, (-(2**31), 2**31 - 1)),
        (np.int64, (-(2**63), -(2**63) + 2**32 - 1)),
        (np.uint64, (2**64 - 9, 2**64 - 1)),
    ],
)
def test_times_count_from_the_earliest_whatever_their_type(dtype, ends):
    found = recorded(stream(t=np.array([ends[0], ends[0] + 1, ends[1]], dtype)), SIZE, "a")
    assert found.events["t"].tolist() == [0, 1, ends[1] - ends[0]]
    with pytest.raises(CorruptRecord, match=f"has the times 0 to {2**64 - 1}; expected"):
        recorded(stream(t=np.array([-(2**63), 0, 2**63 - 1])), SIZE, "a")


def test_order_and_density_of_times():
    check_times(np.array([7]), "a")
    check_times(np.arange(100_000) // 20, "a")
    check_times(np.array([3, 1]), "a")  # A clock that was set back.
    check_times(np.tile([0, 1, 2, 3, 4], 100), "a")
    with pytest.raises(CorruptRecord, match="a: goes back in time at 50 of 99 steps"):
        check_times(np.tile([1, 0], 50), "a")
    with pytest.raises(CorruptRecord, match="a: has 100,000 events in 4,762 microseconds"):
        check_times(np.arange(100_000) // 21, "a")


@pytest.mark.parametrize("size", [(), (34,), (0, 34), (34, 16385), (34, 34, 2)])
def test_sensors_that_are_none(size):
    with pytest.raises(
        UserError, match=r"^camera: expected the height and the width of a sensor, 1 to 16384"
    ):
        check_sensor(size, "camera")
    assert check_sensor((16384, 1), "camera") == (16384, 1)


@pytest.mark.parametrize(
    "make", [lambda: FakeEvents(3, (16416, 32), 2), lambda: DigitEvents("test", size=16416)]
)
def test_made_streams_fit_their_type(make):
    """Else column 65,536 would be column 0."""
    with pytest.raises(UserError, match="1 to 16384 pixels; found 16416x"):
        make()


@pytest.mark.parametrize("x", [-1, 16_384])
def test_a_sensor_that_is_not_known_is_not_named(x):
    with pytest.raises(CorruptRecord, match=f"^cat/7: has an event at x = {x}; no sensor has it$"):
        recorded(stream(x=[0, 119, x]), None, "cat/7")
