"""What real files of COCO have wrong, by the command line: counted and told, or refused in one line."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from qsdt_jax.assemble.examples import OBJECTS
from qsdt_jax.assemble.tasks import TaskFactory
from qsdt_jax.data.class_folders import tell_once
from qsdt_jax.tasks.average_precision import AveragePrecision
from qsdt_jax.workdir.metrics import read_metrics
from tests.assemble.detecting import SameObjects
from tests.data.dense.coco_files import HEIGHT, WIDTH, annotation, content, image, write_json
from tests.data.prepare.files import encoded, write_files
from tests.launch.tiny import launch

MANY, PLACES = 300, 100
# Image 30 has no object, 40 no file, 50 more objects than there are places. Numbers start at 10.
ODD = {
    1: annotation(1, 10),
    2: annotation(2, 10, (-3, 2, 9, 6)),
    3: annotation(3, 10, (30, 20, 20, 20)),
    4: annotation(4, 10, (4, 4, 0, 5)),
    5: annotation(5, 10, (4, 4, 5, -5)),
    6: annotation(6, 10, category_id=99),
    7: annotation(7, 11),
    8: annotation(8, 20, segmentation=[[1, 2, 9, 4]]),
    9: annotation(9, 20, segmentation={"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}),
    10: annotation(10, 20),
    11: annotation(11, 40),
}
TOLD = [
    "2 annotations with boxes that reach beyond their images, clipped (2 for one)",
    "1 annotation with boxes or masks smaller than a pixel, not learnt (4 for one)",
    "1 annotation with boxes of a negative side, left out (5 for one)",
    "1 annotation of categories that it does not list, left out (6 for one)",
    "1 annotation of images that it does not list, left out (7 for one)",
    "1 annotation with a mask without a polygon of three points, left out (8 for one)",
    "1 annotation with a mask of another size than its image, left out (9 for one)",
    "1 image whose file is not in {folder}, left out (0040.jpg for one)",
]
NOT_LEARNT = "1 image without an object that can be learnt, left out of training"


@jax.tree_util.register_static
class Same(SameObjects):
    """Learns nothing, and finds the same in images of any source."""

    score = AveragePrecision.score


def build(config, class_names):
    del config
    return Same(tuple(class_names))


TASK = TaskFactory(build=build, metrics=Same.metrics, examples=OBJECTS)
CONFIG = """
from tests.assemble.detecting import detecting_config

def get_config():
    config = detecting_config()
    config.task.name = "tests.launch.test_bad_objects:TASK"
    config.data.source = "coco"
    config.data.augmentation = "none"
    config.batch_size = 3
    return config
"""


@pytest.fixture(autouse=True)
def nothing_was_told():
    tell_once.cache_clear()


@pytest.fixture
def root(tmp_path) -> Path:
    """Both splits have all of it."""
    small = [annotation(1000 + i, 50, (i % 29, i % 19, 4 + i % 4, 4)) for i in range(MANY)]
    value = content([image(number) for number in (50, 10, 20, 30, 40)], [*ODD.values(), *small])
    for split in ("train", "val"):
        write_json(tmp_path / "coco" / "annotations" / f"instances_{split}2017.json", value)
        files = {f"{number:04d}.jpg": encoded(number) for number in (10, 20, 30, 50)}
        write_files(tmp_path / "coco" / f"{split}2017", files)
    return tmp_path / "coco"


def lines(root: Path, split: str, *more: str) -> list[str]:
    file, folder = root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"
    return [f"{file}: {line.format(folder=folder)}" for line in (*TOLD, *more)]


def train(root: Path, workdir: Path) -> int:
    config = workdir.with_suffix(".py")
    config.write_text(CONFIG)
    return launch("--config", config, "--workdir", workdir, f"--config.data.path={root}")


def test_it_is_prepared_and_told(root, tmp_path, capsys):
    assert launch("prepare", "coco", "--source", root, "--out", tmp_path / "out") == 0
    told = capsys.readouterr()
    given = [line for line in told.err.splitlines() if ": 1 " in line or ": 2 " in line]
    assert sorted(given) == sorted([*lines(root, "train", NOT_LEARNT), *lines(root, "val")])
    assert "train 3 records" in told.out and "validation 4 records" in told.out


def test_a_run_on_the_folder_tells_the_same(root, tmp_path, capsys, caplog):
    """And which image has too many objects; the images that can be scored are."""
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert train(root, tmp_path / "run") == 0
    given = [record.getMessage() for record in caplog.records if str(root) in record.getMessage()]
    assert sorted(given) == sorted([*lines(root, "train", NOT_LEARNT), *lines(root, "val")])
    [many] = {record.getMessage() for record in caplog.records if "largest" in record.getMessage()}
    assert f"has {MANY} objects, of which the {PLACES} largest are learnt" in many
    assert "Traceback" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "data.json").read_text())["training_images"] == 3
    assert 0 <= read_metrics(tmp_path / "run")[-1]["eval/bbox_map"] < 100


def changed(split: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        file = root / "annotations" / f"instances_{split}2017.json"
        value = json.loads(file.read_text())
        change(value)
        write_json(file, value)

    return apply


REFUSED = {
    "two images of one id": (changed("train", lambda x: x["images"].append(image(10))), "have the id 10"),
    "two objects of one id": (changed("val", lambda x: x["annotations"].append(ODD[1])), "have the id 1"),
    "two categories of one id": (
        changed("train", lambda x: x["categories"].append({"id": 3, "name": "cow"})),
        "two categories have the id 3",
    ),
    "broken JSON": (
        lambda root: (root / "annotations" / "instances_train2017.json").write_text('{"images": [{"id": 1'),
        "instances_train2017.json is no JSON, or damaged",
    ),
    "no object": (changed("train", lambda x: x["annotations"].clear()), "with objects; found none of 5"),
    "no image": (
        lambda root: (root / "train2017").rename(root / "images2017"),
        "expected its images in",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line(case, root, tmp_path, capsys):
    change, told = REFUSED[case]
    change(root)
    for refused in (
        lambda: launch("prepare", "coco", "--source", root, "--out", tmp_path / "out"),
        lambda: train(root, tmp_path / "run"),
    ):
        assert refused() == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert told in line and str(root) in line
        assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


def test_annotations_of_training_alone(root, tmp_path, capsys):
    """They are prepared, and it is told that a run needs more."""
    (root / "annotations" / "instances_val2017.json").unlink()
    assert launch("prepare", "coco", "--source", root, "--out", tmp_path / "out") == 0
    assert "nothing is held out for evaluation" in capsys.readouterr().out
    assert train(root, tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert told.count("error: ") == 1 and "expected annotations/instances_val*.json of COCO" in told
