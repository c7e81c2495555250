"""DVS128-Gesture as its archive unpacks."""

import numpy as np
import pytest

from qsdt_jax.data.events.formats.aedat3 import read_interval
from qsdt_jax.data.prepare.dvs128gesture import CLASS_NAMES, read_dvs128gesture
from qsdt_jax.data.prepare.plan import make_plan
from qsdt_jax.data.prepare.records import check
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.events.formats.written import AEDAT3_HEADER, aedat3, aedat3_events, aedat3_packet
from tests.data.prepare.files import write_files
from tests.launch.tiny import launch

HEADER = "class,startTime_usec,endTime_usec\n"
EVENTS = [(1000 * i, i % 128, 5, i % 2) for i in range(100)]  # One in a millisecond.
LABELS = f"{HEADER}1,10000,20000\n11,20000,40500\n".encode()
LABELS_OF_24, TRAIN = "user24_led_labels__csv", "trials_to_train__txt"
NAMES = ("user01_led", "user02_lab", "user24_led")


def folder(**changes: bytes | None) -> dict[str, bytes]:
    files: dict[str, bytes | None] = {
        "trials_to_train.txt": b"user01_led.aedat\nuser02_lab.aedat\n\n",
        "trials_to_test.txt": b"user24_led.aedat\r\n",
        "gesture_mapping.csv": b"",
        "user07_led.aedat": b"",
        **dict.fromkeys([f"{name}.aedat" for name in NAMES], aedat3([EVENTS[:60], EVENTS[60:]])),
        **dict.fromkeys([f"{name}_labels.csv" for name in NAMES], LABELS),
    }
    files |= {name.replace("__", "."): content for name, content in changes.items()}
    return {name: content for name, content in files.items() if content is not None}


def refusal(source, **changes) -> str:
    write_files(source, folder(**changes))
    with pytest.raises(UserError) as caught:
        read_dvs128gesture(source)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{source}/", "").replace(f"{source}: ", "")


def test_each_labelled_interval_is_a_stream(tmp_path, capsys):
    """From the command line to the streams; their times count from the beginning of the interval."""
    write_files(tmp_path / "source", folder())
    words = ["prepare", "dvs128gesture", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words) == 2
    told = capsys.readouterr().err
    assert "found 4 train of 1,176, 2 test of 288" in told
    assert launch(*words, "--allow_partial") == 0
    told = capsys.readouterr()
    assert "ignored: gesture_mapping.csv, user07_led.aedat" in told.err
    assert "--config configs/dvs128gesture.py" in told.out and "start_from" not in told.out
    train, test = (TfdsSource(tmp_path / "out", split) for split in ("train", "test"))
    assert (len(train), len(test), train.class_names) == (4, 2, CLASS_NAMES)
    assert sorted(train[i]["label"] for i in range(4)) == [0, 0, 10, 10]
    for example in (test[i] for i in range(2)):
        expected = EVENTS[10:20] if example["label"] == 0 else EVENTS[20:41]
        start = expected[0][0]
        assert example["sensor_size"] == (128, 128)
        assert np.asarray(example["events"]).tolist() == [(t - start, x, y, p) for t, x, y, p in expected]


def test_what_is_found(tmp_path):
    write_files(tmp_path, folder())
    dataset = read_dvs128gesture(tmp_path)
    named = [(record.name, record.label, record.interval) for record in dataset.splits["train"]]
    assert named == [
        ("user01_led/01", 0, (10000, 20000)),
        ("user01_led/02", 10, (20000, 40500)),
        ("user02_lab/01", 0, (10000, 20000)),
        ("user02_lab/02", 10, (20000, 40500)),
    ]
    assert len(CLASS_NAMES) == 11
    with pytest.raises(UserError, match="is not the whole of dvs128gesture"):
        check(dataset, allow_partial=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trials_to_test__txt": None}, "expected the folder DvsGesture with trials_to_test.txt"),
        ({"user02_lab__aedat": None}, "trials_to_train.txt: names user02_lab.aedat, which is not there"),
        ({"user02_lab_labels__csv": None}, "user02_lab.aedat: has no labels; expected user02_lab_labels.csv"),
        ({TRAIN: b"user01_led\n"}, "trials_to_train.txt: names 'user01_led'; expected"),
        ({TRAIN: b"../user01_led.aedat\n"}, "names '../user01_led.aedat'"),
        ({TRAIN: b"user01_led.aedat\n" * 2}, "names user01_led.aedat twice"),
        ({TRAIN: b"user24_led.aedat\n"}, "user24_led.aedat is named in trials_to_train.txt and"),
        ({LABELS_OF_24: b""}, "user24_led_labels.csv: expected a first line class,startTime_usec"),
        ({LABELS_OF_24: b"1,2,3\n"}, "endTime_usec; found 1,2,3"),
        ({LABELS_OF_24: HEADER.encode()}, "user24_led_labels.csv: has no labels"),
        ({LABELS_OF_24: LABELS + b"\n12,1,2\n"}, "labels.csv, line 5: has the class 12; expected 1..11"),
        ({LABELS_OF_24: LABELS + b"0,1,2\n"}, "line 4: has the class 0"),
        ({LABELS_OF_24: LABELS + b"3,2,2\n"}, "line 4: ends at 2, not after its beginning at 2"),
        ({LABELS_OF_24: LABELS + b"3,1\n"}, "line 4: expected a class and two times in microseconds"),
        ({LABELS_OF_24: LABELS + b"3,-1,2\n"}, "line 4: expected a class and two times"),
        ({LABELS_OF_24: LABELS + b"3,1," + b"9" * 40}, "line 4: expected a class and two times"),
        ({LABELS_OF_24: LABELS + b"a\xff,1,2"}, "line 4: expected a class and two times"),
    ],
)  # fmt: skip
def test_mistakes_in_one_line(tmp_path, changes, told):
    assert told in refusal(tmp_path, **changes)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="expected the folder DvsGesture with trials_to_train") as caught:
        read_dvs128gesture(tmp_path)
    assert str(caught.value).endswith("found nothing")


@pytest.mark.parametrize(
    ("interval", "told"),
    [
        ((99_001, 100_000), "from 99,001 to 100,000 microseconds, and its recording goes from 0 to 99,000"),
        ((90_000, 100_001), "is labelled from 90,000 to 100,001 microseconds"),
        ((10**17, 10**18), "is labelled from 100,000,000,000,000,000"),
        ((10_001, 10_999), "has no events from 10,001 to 10,999 microseconds"),
    ],
)
def test_intervals_beyond_the_recording(interval, told):
    with pytest.raises(CorruptRecord) as caught:
        read_interval(aedat3([EVENTS]), interval, "user01_led/03")
    assert str(caught.value).startswith("user01_led/03: ") and told in str(caught.value)


def test_the_end_of_an_interval_is_not_in_it():
    data = aedat3([EVENTS])
    assert read_interval(data, (5000, 7000), "a")["t"].tolist() == [0, 1000]
    assert read_interval(data, (4999, 7001), "a")["t"].tolist() == [1, 1001, 2001]
    assert len(read_interval(data, (90_000, 100_000), "a")) == 10  # A tenth of it after the last event.


def test_intervals_go_by_the_clock_beyond_its_overflow():
    data = AEDAT3_HEADER + b"".join(
        aedat3_packet(aedat3_events([(t, 1, 1, 1)]), 1, overflows=n) for n, t in ((0, 2**31 - 5), (1, 5))
    )
    assert read_interval(data, (2**31 - 6, 2**31 + 6), "a")["t"].tolist() == [1, 11]


def test_recordings_that_are_damaged_are_left_out(tmp_path):
    write_files(tmp_path / "source", folder(user01_led__aedat=aedat3([EVENTS])[:-1]))
    words = ["prepare", "dvs128gesture", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words, "--allow_partial") == 0
    assert len(TfdsSource(tmp_path / "out", "train")) == 2


def test_other_intervals_are_another_data_set(tmp_path):
    """Of equal names, labels and files."""
    plans = []
    for end in (40500, 40501):
        write_files(tmp_path, folder(user24_led_labels__csv=LABELS.replace(b"40500", str(end).encode())))
        plans.append(make_plan(read_dvs128gesture(tmp_path)).fingerprint)
    assert plans[0] != plans[1]
