"""What the checkpoints of a workdir belong to, and who may go on with them."""

import dataclasses
import json
from pathlib import Path

import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.workdir.workdir import (
    NOTHING_KNOWN,
    Belongings,
    Source,
    Workdir,
    completed,
    read_belongings,
    run_differences,
)

DEFAULTS = {
    "bits": 4,
    "rate": 0.5,
    "name": "lamb",
    "on": False,
    "decay": None,
    "size": (32, 32),
    "start_from": "",
    "data": {"path": "", "classes": ()},
    "distill": {"teacher": ""},
}
TAUGHT = {**DEFAULTS, "distill": {"teacher": "runs/twin"}}
TWIN = Source(place="runs/twin", step=30, checksum=7)
RUN = Belongings(config=DEFAULTS, class_names=("cat", "dog"), training_images=8)


def claimed(workdir: Path, run: Belongings) -> Path:
    with Workdir(workdir) as directory:
        directory.claim(run)
    return workdir


def refused(workdir: Path, run: Belongings, defaults=DEFAULTS) -> str:
    before = {file.name: file.read_bytes() for file in workdir.iterdir()}
    with pytest.raises(UserError) as caught:
        Workdir(workdir).require(run, defaults)
    assert {file.name: file.read_bytes() for file in workdir.iterdir()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_goes_on(tmp_path):
    run = dataclasses.replace(RUN, config=TAUGHT, sources={"distill.teacher": TWIN})
    claimed(tmp_path, run)
    with Workdir(tmp_path) as directory:
        directory.require(run, DEFAULTS)
    stored = read_belongings(tmp_path, DEFAULTS)
    assert (stored.class_names, stored.sources) == (RUN.class_names, run.sources)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config": {**DEFAULTS, "bits": 2}}, "another configuration: bits was 4, is 2"),
        ({"training_images": 9}, "of 8 training images, these are 9"),
        ({"class_names": ("dog", "cat")}, "in another order: 'dog' where the network has 'cat'"),
        ({"class_names": ("cat", "dog", "cow")}, "3 classes, but the run in"),
        ({"class_names": ("cat",)}, "1 classes, but the run in"),
        ({"class_names": ()}, "0 classes, but the run in"),
    ],
)
def test_another_run_is_refused(tmp_path, changes, told):
    assert told in refused(claimed(tmp_path, RUN), dataclasses.replace(RUN, **changes))


def test_an_import_is_trained_with_its_classes_only(tmp_path):
    claimed(tmp_path, dataclasses.replace(RUN, training_images=None))
    with Workdir(tmp_path) as directory:
        directory.require(RUN)
    assert "in another order" in refused(tmp_path, dataclasses.replace(RUN, class_names=("dog", "cat")))
    (tmp_path / "data.json").write_text(NOTHING_KNOWN)
    with Workdir(tmp_path) as directory:
        known = directory.require(RUN)
    assert known is not None and (known.names, known.outputs) == (None, 2)
    names = ("0", "1", "10", "2")
    assert "order of their numbers" in refused(tmp_path, dataclasses.replace(RUN, class_names=names))


@pytest.mark.parametrize("file", ["config.json", "data.json"])
def test_checkpoints_of_nobody_knows_what(tmp_path, file):
    path = claimed(tmp_path, RUN) / file
    for content in (b"", b"{", b"\xff\xfe"):
        path.write_bytes(content)
        assert f"{path} is no JSON, or damaged" in refused(tmp_path, RUN)
    for content in ("[]", "4"):
        path.write_text(content)
        assert f"{path} cannot be read: expected names and values" in refused(tmp_path, RUN)
    path.unlink()
    assert f"is not the workdir of a run: it has no {file}" in refused(tmp_path, RUN)


@pytest.mark.parametrize(
    "data",
    [
        {"class_names": ["a"]},
        {"training_images": 3},
        {"class_names": "ab", "training_images": 3},
        {"class_names": ["a", 1], "training_images": 3},
        {"class_names": ["a"], "training_images": "3"},
        {"class_names": ["a"], "training_images": 3, "sources": ["twin"]},
        {"class_names": ["a"], "training_images": 3, "sources": {"start_from": {"place": "x"}}},
    ],
)
def test_damaged_data(tmp_path, data):
    (claimed(tmp_path, RUN) / "data.json").write_text(json.dumps(data))
    assert f"{tmp_path / 'data.json'}: expected" in refused(tmp_path, RUN)


def test_a_key_that_came_later_has_its_default(tmp_path):
    config = {key: value for key, value in DEFAULTS.items() if key not in ("on", "distill")}
    config["data"] = {"path": ""}
    claimed(tmp_path, dataclasses.replace(RUN, config=config))
    with Workdir(tmp_path) as directory:
        directory.require(RUN, DEFAULTS)
    told = refused(tmp_path, dataclasses.replace(RUN, config={**DEFAULTS, "on": True}))
    assert told.endswith("another configuration: on was False, is True")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bitz": 4}, "is not of this version: it has the unknown key 'bitz'"),
        ({"data": {"paht": ""}}, "it has the unknown key 'data.paht'"),
        ({"bits": "four"}, "bits is 'four'; expected a value like 4"),
        ({"bits": 4.5}, "bits is 4.5"),
        ({"bits": True}, "bits is True"),
        ({"bits": None}, "bits is None"),
        ({"rate": "fast"}, "rate is 'fast'"),
        ({"name": 3}, "name is 3"),
        ({"on": 1}, "on is 1"),
        ({"decay": "slow"}, "decay is 'slow'"),
        ({"size": 32}, "size is 32"),
        ({"size": ["a", "b"]}, "size is ['a', 'b']"),
        ({"data": 4}, "data is 4"),
        ({"bits": {"q": 4}}, "bits is {'q': 4}"),
    ],
)
def test_a_configuration_that_is_not_of_this_version(change, told):
    with pytest.raises(UserError) as caught:
        completed(change, DEFAULTS, Path("w/config.json"))
    assert str(caught.value).startswith("w/config.json is not of this version: ")
    assert told in str(caught.value)


def test_values_as_json_has_them_are_of_this_version():
    values = {"rate": 1, "decay": 0.5, "size": [48, 32], "data": {"classes": ["3", "8"]}}
    assert completed(values, DEFAULTS, Path("w"))["size"] == [48, 32]


def sources(source: Source | None) -> dict[str, Source]:
    return {} if source is None else {"distill.teacher": source}


@pytest.mark.parametrize(
    ("place", "noted", "now", "differences"),
    [
        ("runs/twin", TWIN, TWIN, 0),
        ("moved", TWIN, dataclasses.replace(TWIN, place="moved"), 0),
        ("moved", TWIN, dataclasses.replace(TWIN, place="moved", step=31), 1),
        ("moved", TWIN, dataclasses.replace(TWIN, place="moved", checksum=8), 1),
        ("runs/twin", TWIN, dataclasses.replace(TWIN, checksum=8), 1),
        ("moved", TWIN, None, 1),
        ("", TWIN, None, 1),
        ("runs/twin", None, TWIN, 0),  # Of a run from before sources were noted.
        ("moved", None, dataclasses.replace(TWIN, place="moved"), 1),
    ],
)
def test_a_teacher_is_its_checkpoint_and_not_its_place(place, noted, now, differences):
    before = dataclasses.replace(RUN, config=TAUGHT, sources=sources(noted))
    config = {**DEFAULTS, "distill": {"teacher": place}}
    after = dataclasses.replace(RUN, config=config, sources=sources(now))
    found = run_differences(before, after)
    assert len(found) == differences and all(line.startswith("distill.teacher") for line in found)
