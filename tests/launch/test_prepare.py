"""The verb `prepare`: killed and started again, its mistakes, and what it tells."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from launch.prepare import find
from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.data import build_source, build_training_source
from qsdt_jax.data.prepare.scene_files import write_scenes
from qsdt_jax.data.prepare.writer import prepare
from qsdt_jax.errors import UserError
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.workdir.workdir import config_differences
from tests.data.dense.coco_files import coco
from tests.data.dense.segmentation_files import segfolder
from tests.data.prepare.files import (
    BROKEN,
    ODDITIES,
    TRAIN,
    VALIDATION,
    aedat,
    class_folder,
    kit,
    tar_of,
    train_tar,
    write_files,
)
from tests.data.prepare.test_cifar import TEN
from tests.launch.prepare_runs import ROOT, Moment, run
from tests.launch.tiny import launch, tiny_config

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cat")
SHARDS = "--shards=3"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    class_folder(folder / "train", CLASSES, 10)
    class_folder(folder / "val", CLASSES, 2, seed=500)
    write_files(folder / "train" / "bee", {**ODDITIES, **BROKEN})
    return folder


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    prepare(find("imagefolder", source), out, shards=3)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}


# Three training shards and one for validation: "placing" comes for the plan, for the note and the shard of
# each, for the report, and for the three files of metadata.
KILLS = [
    Moment("placing", 1),  # The plan is not there yet.
    Moment("placing", 2),  # The first note.
    Moment("record", 4),
    Moment("placing", 2),  # The first shard, of which there is a note.
    Moment("placing", 3),  # The first shard stands.
    Moment("record", 9),
    Moment("placing", 4),
    Moment("placing", 3),  # Three shards stand, and a note of the fourth.
    Moment("placing", 3),  # The report.
    Moment("placing", 2),  # Before any metadata.
    Moment("placing", 4),  # All but dataset_info.json.
    Moment("clearing", 1),
]


def test_killed_again_and_again(source, undisturbed, tmp_path):
    arguments = ["imagefolder", "--source", source, "--out", tmp_path / "out", SHARDS]
    *killed, last = run(tmp_path / "log", [*KILLS, Moment()], *arguments)
    assert [ended.status for ended in killed] == [-signal.SIGKILL] * len(KILLS)
    assert last.status == 0, last
    assert contents(tmp_path / "out") == undisturbed


def test_two_at_once_and_the_second_refuses(source, undisturbed, tmp_path):
    arguments = ["imagefolder", "--source", source, "--out", tmp_path / "out", SHARDS]
    second, first = run(tmp_path / "log", [Moment("placing", 3, "halt")], *arguments)
    assert second.status == 2
    assert (
        second.lines[-1].startswith("error: ") and "is being written by another process" in second.lines[-1]
    )
    assert first.status == 0
    assert contents(tmp_path / "out") == undisturbed


def test_interrupted(source, undisturbed, tmp_path):
    arguments = ["imagefolder", "--source", source, "--out", tmp_path / "out", SHARDS]
    first, second = run(tmp_path / "log", [Moment("record", 20, "interrupt"), Moment()], *arguments)
    assert (first.status, second.status) == (130, 0)
    assert first.lines[-1] == "interrupted; the same command goes on with what is left"
    assert contents(tmp_path / "out") == undisturbed


def test_command_line(source, undisturbed, tmp_path):
    """As a user gives it, in a process that has imported nothing."""
    command = [sys.executable, "-m", "launch", "prepare", "imagefolder", SHARDS]
    command += [f"--source={source}", f"--out={tmp_path / 'out'}"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert contents(tmp_path / "out") == undisturbed
    told = dict(re.split(r"  +", line, maxsplit=1) for line in ended.stdout.splitlines())
    directory = tmp_path / "out" / "imagefolder" / "1.0.0"
    assert told["written"] == str(directory)
    assert told["splits"] == "train 37 records in 3 shards, validation 6 records in 1 shards"
    assert told["classes"] == "3: ant, bee, cat"
    assert told["left out"] == f"4 records that cannot be read, named in {directory}/preparation.json"
    size = sum(map(len, undisturbed.values())) / 1e6
    assert told["size"] == f"{size:,.1f} MB"
    for name in BROKEN:
        assert f"left out of the train split: bee/{name}: not a readable image" in ended.stderr
    # The last of the plain lines that stand for the bar.
    assert re.search(r"^record 47/47  [\d,]+ records/s  00:00 left  ", ended.stderr, re.MULTILINE)
    assert "Traceback" not in ended.stderr
    reading = eval(told["read by"], {"tfds": tfds})  # The line is meant to be copied.
    assert len(reading["train"]) == 37
    training = shlex.split(told["train"])
    assert training[:3] == ["python", "-m", "launch"]
    assert "--config.data.source=tfds" in training and f"--config.data.path={directory}" in training


def test_neither_jax_nor_tensorflow_is_imported(source, tmp_path):
    code = (
        "import sys; from launch.__main__ import main; status = main(sys.argv[1:]); "
        "loaded = [m for m in ('jax', 'flax', 'tensorflow') if m in sys.modules]; "
        "sys.exit(str(loaded) if loaded else status)"
    )
    command = [sys.executable, "-c", code, "prepare", "imagefolder", "--source", source, "--out", tmp_path]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def test_imagenet(tmp_path):
    tars = {
        "ILSVRC2012_img_train.tar": train_tar(),
        "ILSVRC2012_img_val.tar": tar_of(VALIDATION),
        "ILSVRC2012_devkit_t12.tar.gz": tar_of(kit(), "w:gz"),
    }
    write_files(tmp_path / "source", tars)
    words = ["prepare", "imagenet", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words) == 2
    assert not (tmp_path / "out").exists()
    assert launch(*words, "--allow_partial") == 0
    for split, count in (("train", 12), ("validation", 5)):
        records = tfds.data_source("imagenet:1.0.0", split=split, data_dir=tmp_path / "out")
        assert len(records) == count
    labels = tfds.builder_from_directory(tmp_path / "out" / "imagenet" / "1.0.0").info.features["label"]
    assert labels.names == sorted(TRAIN)


def test_cifar10(tmp_path, capsys):
    write_files(tmp_path / "source" / "cifar-10-batches-py", TEN)
    words = ["prepare", "cifar10", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words, "--allow_partial") == 0
    assert "train 15 records in 1 shards, test 2 records in 1 shards" in capsys.readouterr().out
    # Also where tfds has a data set of the same name.
    source = tfds.data_source("cifar10:1.0.0", split="test", data_dir=tmp_path / "out")
    assert [example["image"].shape for example in source] == [(32, 32, 3)] * 2


def test_cifar10dvs(tmp_path, capsys):
    streams = {f"cat/cifar10_cat_{i}.aedat": aedat([i], [i]) for i in range(10)}
    write_files(tmp_path / "source", {**streams, "cat/cifar10_cat_10.aedat": b"", "cat/notes.txt": b""})
    words = ["prepare", "cifar10dvs", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words, "--allow_partial") == 0
    told = capsys.readouterr()
    assert "train 9 records in 1 shards, test 1 records in 1 shards" in told.out
    assert "left out of the test split: cat/cifar10_cat_10.aedat: 0 bytes of events" in told.err
    assert "ignored: cat/notes.txt" in told.err


def test_digit_scenes(tmp_path, capsys):
    """They are ADE20K to what comes after them."""
    words = ["prepare", "digit-scenes", "--out", tmp_path / "scenes", "--train=3", "--test=2", "--seed=5"]
    assert launch(*words) == 0
    told = capsys.readouterr()
    assert "training 3 scenes with " in told.out and "validation 2 scenes with " in told.out
    assert f"--config.data.source=ade20k --config.data.path={tmp_path / 'scenes'}" in told.out
    assert "scene 5/5" in told.err
    assert launch(*words) == 0  # What is finished stays.
    assert capsys.readouterr() == (told.out, "")
    assert launch("prepare", "digit-scenes", "--out", tmp_path / "scenes", "--train=3", "--test=2") == 2
    assert "holds other scenes" in capsys.readouterr().err
    words = ["prepare", "ade20k", "--source", tmp_path / "scenes", "--out", tmp_path / "out"]
    assert launch(*words) == 2
    assert "found 11 classes of 150, 3 train of 20,210, 2 validation of 2,000" in capsys.readouterr().err
    assert launch(*words, "--allow_partial") == 0
    assert "train 3 records in 1 shards, validation 2 records in 1 shards" in capsys.readouterr().out
    records = tfds.data_source("ade20k:1.0.0", split="train", data_dir=tmp_path / "out")
    assert {record["annotation"].shape == (*record["image"].shape[:2], 1) for record in records} == {True}


def test_digit_scenes_interrupted(tmp_path):
    """Before the list of the classes gets its name, the fourth file that does."""
    arguments = ["digit-scenes", "--out", tmp_path / "out", "--train=3", "--test=2"]
    first, second = run(tmp_path / "log", [Moment("placing", 4, "interrupt"), Moment()], *arguments)
    assert (first.status, second.status) == (130, 0)
    assert first.lines[-1] == "interrupted; the same command begins again"
    write_scenes(tmp_path / "again", train=3, test=2, seed=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_segfolder(tmp_path, capsys):
    segfolder(tmp_path / "source")
    write_files(tmp_path / "source", {"images/train/notes.txt": b"", "images/train/alone.jpg": b""})
    words = ["prepare", "segfolder", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words, "--reduce_zero_label") == 0
    told = capsys.readouterr()
    assert "ignored: " in told.err and "2 not taken for pairs of an image and an annotation" in told.err
    assert re.search("^classes   2: cat, dog$", told.out, re.MULTILINE)
    assert launch(*words) == 2  # Other numbers.


def test_coco(tmp_path, capsys):
    coco(tmp_path / "source")
    (tmp_path / "source" / "train2017" / "0010.jpg").unlink()
    words = ["prepare", "coco", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words) == 0
    told = capsys.readouterr()
    assert "1 image whose file is not in" in told.err and "left out (0010.jpg for one)" in told.err
    assert re.search("^classes   2: cat, dog$", told.out, re.MULTILINE)
    assert "--config.data.source=tfds" in told.out
    assert launch(*words) == 0  # Finished already.


def test_data_without_a_split_to_evaluate_on(tmp_path, capsys):
    class_folder(tmp_path / "source", CLASSES, 2)
    assert launch("prepare", "imagefolder", "--source", tmp_path / "source", "--out", tmp_path / "out") == 0
    assert "train     nothing is held out for evaluation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "prepare needs a name (one of imagenet, cifar10, cifar100, cifar10dvs, dvs128gesture, imag"),
        (["imagefolder", "--source", "{source}"], "prepare needs a name"),
        (["imagefolder", "imagenet", "--source", "{source}", "--out", "{out}"], "prepare needs a name"),
        (
            ["svhn", "--source", "{source}", "--out", "{out}"],
            "unknown data set 'svhn'; expected one of imagenet",
        ),
        (["digit-scenes"], "prepare digit-scenes needs --out DIR, and no --source"),
        (["digit-scenes", "--source", "{source}", "--out", "{out}"], "needs --out DIR, and no --source"),
        (["digit-scenes", "--out", "{out}", "--shards=2"], "of digit-scenes are --out, --train, --test and"),
        (["digit-scenes", "--out", "{out}", "--train=0"], "train"),
        (["imagefolder", "--source", "{source}", "--out", "{out}", "--seed=1"], "of digit-scenes alone"),
        (["ade20k", "--source", "{source}", "--out", "{out}"], "expected images/training/NAME.jpg and"),
        (["ade20k", "--source", "{source}", "--out", "{out}", "--reduce_zero_label"], "a segfolder alone"),
        (["segfolder", "--source", "{source}", "--out", "{out}"], "expected the names of the classes"),
        (["coco", "--source", "{source}", "--out", "{out}"], "expected annotations/instances_train*.json of"),
        (["voc", "--source", "{source}", "--out", "{out}"], "expected JPEGImages, Annotations and"),
        (["imagefolder", "--source", "{source}", "--out", "{source}/train"], "--out {source}/train lies in"),
        (["imagefolder", "--source", "{out}/no", "--out", "{out}"], "--source {out}/no: no such folder"),
        (["cifar10", "--source", "{source}", "--out", "{out}"], "expected cifar-10-python.tar.gz or"),
        (["imagenet", "--source", "{source}", "--out", "{out}"], "class 'ant' is no WordNet number"),
        (["imagefolder", "--source", "{source}", "--out", "{out}", "--shards=0"], "shards"),
        (
            ["imagefolder", "--source", "{source}/train", "--out", "{source}/val/ant/0.JPEG"],
            "a file is in the way",
        ),
        (
            ["imagefolder", "--sorce", "{source}", "--out", "{out}"],
            "unknown flag --sorce; did you mean 'source'?",
        ),
    ],
)
def test_mistakes(source, tmp_path, capsys, words, message):
    places = {"source": str(source), "out": str(tmp_path / "out")}
    assert launch("prepare", *(word.format(**places) for word in words)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message.format(**places) in last
    assert not (tmp_path / "out").exists()


# Training on what was prepared


@pytest.fixture(scope="module")
def directory(source, tmp_path_factory) -> Path:
    return prepare(find("imagefolder", source), tmp_path_factory.mktemp("out")).directory


def config_of(directory: Path, **overrides):
    data = {"data.source": "tfds", "data.path": str(directory), "data.augmentation": "none"}
    return tiny_config(**{"batch_size": 5, **data, **overrides})


def test_a_run_reads_it(directory):
    run_ = build_run(config_of(directory))
    assert isinstance(run_.task, Classification)
    assert (run_.task.model.num_classes, run_.total_steps) == (3, run_.config["epochs"] * (37 // 5))
    batch = next(run_.training_data(0))
    assert batch["image"].shape == (5, 32, 32, 1)
    masks = [b["mask"].sum() for b in run_.evaluation_data["test"]()]
    assert sum(masks) == 6


def damage(directory: Path, split: str) -> None:
    """Makes the first record of a split unreadable."""
    file = next(directory.glob(f"*-{split}.array_record-00000*"))
    content = bytearray(file.read_bytes())
    content[content.index(b"\xff\xd8") + 20] ^= 1
    file.write_bytes(content)


def test_training_goes_beyond_a_corrupt_record_and_evaluation_does_not(directory, tmp_path):
    copy = shutil.copytree(directory, tmp_path / "copy")
    damage(copy, "train")
    damage(copy, "validation")
    run_ = build_run(config_of(copy, **{"data.corrupt_limit": 1}))
    batches = run_.training_data(0)
    for _ in range(2 * (37 // 5) + 1):
        next(batches)
    with pytest.raises(UserError, match=r"validation record \d+: cannot be read"):
        list(run_.evaluation_data["test"]())
    strict = build_training_source(config_of(copy, **{"data.corrupt_limit": 0}))
    with pytest.raises(UserError, match=r"1 records .* at most 0; the last: .*, train record \d+: cannot"):
        for i in range(len(strict)):
            strict[i]


def test_config_mistakes(directory):
    with pytest.raises(UserError, match=r"config\.data\.path is empty; a tfds source needs"):
        build_source(config_of(directory, **{"data.path": ""}), "train")
    with pytest.raises(UserError, match=r"config\.data\.corrupt_limit=-1 must be at least 0"):
        build_run(config_of(directory, **{"data.corrupt_limit": -1}))
    with pytest.raises(UserError, match="is none of digits, folder, tfds, digits_dvs, motion_dvs, ade20k"):
        build_source(config_of(directory, **{"data.source": "tfrecord"}), "train")


def test_a_run_goes_on_with_a_higher_limit_and_more_workers(directory):
    """Which change nothing of what was trained so far."""
    before = json.loads(json.dumps(config_of(directory).to_dict()))  # As a workdir stores it.
    free = {"data.corrupt_limit": 99, "data.workers": 2}
    after = config_of(directory, **free, **{"data.channels": 3}).to_dict()
    assert config_differences(before, after) == ["data.channels was 1, is 3"]
