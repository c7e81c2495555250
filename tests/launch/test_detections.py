"""Objects by the command line and as a library: scored as training logs them, written, and shown."""

import contextlib
import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from pycocotools import cocoeval
from pycocotools.coco import COCO
from pycocotools.mask import decode

from qsdt_jax.assemble.build import build_run
from qsdt_jax.evaluate import coco
from qsdt_jax.evaluate.coco import Truth, scores
from qsdt_jax.loading.opened import Network
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.train.loop import train
from qsdt_jax.workdir.metrics import read_metrics
from tests.assemble import detecting
from tests.launch.tiny import launch


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("detecting") / "run"
    train(build_run(detecting.detecting_config()), path)
    return path


def test_the_loop_scores_against_the_truth_of_its_split(workdir):
    """In batches of several shapes, the last of which are padded.

    Of so small objects pycocotools' polygons and a pasted mask differ by pixels that count.
    """
    last = read_metrics(workdir)[-1]
    found = {m.name: last[f"eval/{m.name}"] for m in detecting.TASK.metrics}
    assert 85 < found.pop("segm_map") < 100
    assert found == pytest.approx(dict.fromkeys(found, 100.0))


def test_the_truth_is_read_once_and_not_before_an_evaluation(tmp_path, monkeypatch):
    """Of a run of four steps with two evaluations of two averages each."""
    read, logged_then = detecting.Scenes.truth.fget, []
    log = tmp_path / "run" / "metrics.jsonl"

    def counted(source):
        logged_then.append(len(log.read_text().splitlines()) if log.exists() else 0)
        return read(source)

    monkeypatch.setattr(detecting.Scenes, "truth", property(counted))
    config = detecting.detecting_config()
    config.steps, config.eval.every_epochs, config.log.every_steps = 4, 2, 1
    config.ema_decay = 0.5
    run = build_run(config)
    assert (run.total_steps, run.eval_every, logged_then) == (4, 2, [])
    train(run, tmp_path / "run")
    assert logged_then == [2]  # Lines of the log, one for each step.
    assert sum("eval_ema/bbox_map" in line for line in read_metrics(tmp_path / "run")) == 2


def test_eval_gives_what_training_logged_and_results_for_others(workdir, tmp_path, capsys, monkeypatch):
    """And each mask is pasted, and boxes and masks are scored, once for all that is told."""
    calls = []

    def count(module: ModuleType, name: str, function: Callable) -> None:
        monkeypatch.setattr(module, name, lambda *arguments: calls.append(name) or function(*arguments))

    count(coco, "covered_part", coco.covered_part)
    count(cocoeval, "COCOeval", cocoeval.COCOeval)
    files = {name: tmp_path / f"{name}.file" for name in ("json", "csv", "results")}
    assert launch("eval", f"--workdir={workdir}", *(f"--{k}={v}" for k, v in files.items())) == 0
    assert Counter(calls) == {"covered_part": 3 * detecting.IMAGES, "COCOeval": 2}
    printed, logged = capsys.readouterr().out, read_metrics(workdir)[-1]
    metrics = json.loads(files["json"].read_text())
    assert all(metrics[m.name] == logged[f"eval/{m.name}"] for m in detecting.TASK.metrics)
    with files["csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == list(detecting.NAMES)
    assert all(float(row["mask AP50 (%)"]) == pytest.approx(100) for row in rows)
    assert "box AP (%)" in printed and "100.00" in printed

    truth, results = Truth(detecting.source(None, "test").truth), json.loads(files["results"].read_text())
    assert len(results) == 3 * detecting.IMAGES
    (tmp_path / "truth.json").write_text(json.dumps(truth.dataset))
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO(str(tmp_path / "truth.json")).loadRes(str(files["results"]))
    assert sorted(index.getImgIds()) == sorted(truth.image_ids)
    assert scores(truth, results, "segm").numbers["AP"] == pytest.approx(metrics["segm_map"] / 100)


def test_tasks_without_results_are_told_first(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(detecting, "TASK", dataclasses.replace(detecting.TASK, results=None))
    monkeypatch.setattr("launch.evaluate.score", lambda *_: pytest.fail("scored"))
    assert launch("eval", "--workdir", workdir, "--results", tmp_path / "a.json") == 2
    told = capsys.readouterr().err
    assert "gives no results that other tools read" in told and told.count("\n") == 1


def test_predict_shows_and_writes_the_objects_of_images_of_any_size(workdir, tmp_path, capsys):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))
    images = {
        "a.jpg": noise,
        "b.png": noise.crop((0, 0, 31, 60)).convert("L"),
        "c.png": noise.crop((0, 0, 9, 9)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    (tmp_path / "no.png").write_text("none")
    files = [tmp_path / name for name in (*images, "no.png")]
    out = tmp_path / "out"
    assert launch("predict", "--workdir", workdir, *files, "--out", out, "--top", 1, "--threshold", 0.5) == 2
    told = capsys.readouterr()
    assert told.out.splitlines() == [f"{file}: cat 90.00 %, and 1 more" for file in files[:3]]
    assert "1 of 4 files were left out" in told.err

    found = json.loads((out / "detections.json").read_text())
    assert [one["image_id"] for one in found] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for i, image in enumerate(images.values()):
        first, second = found[3 * i : 3 * i + 2]
        assert first["file_name"] == str(files[i]) and first["category_name"] == "cat"
        assert (first["category_id"], second["category_id"]) == (1, 2)
        width, height = image.size
        expected = np.array([0.5 * width, 0.5 * height, 0.5 * width, 0.4 * height])
        np.testing.assert_allclose(second["bbox"], expected, rtol=1e-4)
        assert decode(second["segmentation"]).shape == (height, width)
        with Image.open(out / f"{files[i].stem}.png") as picture:
            assert picture.mode == "RGB" and max(picture.size) == 640
    with Image.open(workdir / "predictions.png") as sheet:
        assert sheet.format == "PNG"


def test_the_library_gives_boxes_scores_categories_and_masks(workdir):
    trained = load_trained(workdir)
    network = Network(
        where="here",
        config=trained.config,
        task=trained.task,
        variables=trained.variables,
        classes=trained.require_classes(),
        origin={},
    )
    sizes = [(40, 30), (33, 80), (20, 20)]
    found = network.predict([np.zeros((*size, 3), np.uint8) for size in sizes])
    assert len(found) == 3 and found.class_names == detecting.NAMES
    for i, (height, width) in enumerate(sizes):
        expected = np.minimum(detecting.BOXES[:3], 1) * np.tile((width, height), 2)
        np.testing.assert_allclose(found.boxes[i], expected, rtol=1e-5)
        np.testing.assert_array_equal(found.scores[i], detecting.SCORES[:3])
        np.testing.assert_array_equal(found.categories[i], detecting.CATEGORIES[:3])
        assert found.masks[i].shape == (3, height, width) and found.masks[i].dtype == bool
        area = (expected[:, 2] - expected[:, 0]) * (expected[:, 3] - expected[:, 1])
        np.testing.assert_allclose(found.masks[i].sum((1, 2)), area, rtol=0.25, atol=4)
    assert found.top(2)[0] == [("cat", pytest.approx(0.9)), ("dog", pytest.approx(0.6))]
