"""A detection by the command line, on scenes of digits as COCO files: killed, resumed, scored and shown.

With a light backbone: the whole network trains in tests/configs/test_coco.py.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.mask import decode

import qsdt_jax
from qsdt_jax.data.prepare.scene_files import write_scenes
from qsdt_jax.workdir.metrics import read_metrics
from tests.launch.tiny import launch
from tests.launch.two_devices import on_two_devices
from tests.train.runs import Signal, outcome, run
from tests.train.test_resume import KILL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIGHT = ROOT / "tests" / "configs" / "light_det.py"
METRICS = ("bbox_map", "segm_map", "bbox_map50", "segm_map50")
LOSSES = ("loss_rpn_score", "loss_rpn_box", "loss_class", "loss_box", "loss_mask")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(path, train=14, test=5, seed=0)
    return path


@pytest.fixture(scope="module")
def flags(scenes) -> tuple[str, ...]:
    return "--config.data.source=coco", f"--config.data.path={scenes}"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, cache, flags) -> Path:
    """Of a run that was killed twice."""
    path = tmp_path_factory.mktemp("killed") / "run"
    for signal in (Signal(KILL, "logged", 5), Signal(KILL, "evaluating", 2)):
        assert run(path, cache, *flags, signal=signal, config=LIGHT).status == -KILL
    ended = run(path, cache, *flags, config=LIGHT)
    assert ended.status == 0, ended
    return path


def test_a_killed_run_ends_as_an_uninterrupted_one(workdir, tmp_path, cache, flags):
    ended = run(tmp_path / "run", cache, *flags, config=LIGHT)
    assert ended.status == 0, ended
    found = outcome(tmp_path / "run")
    assert found["step"] == 12 and found == outcome(workdir)


def test_what_a_run_logs(workdir):
    """The five losses and their sum, and the scores of both averages."""
    lines = read_metrics(workdir)
    first, last = lines[0], lines[-1]
    assert sum(first[f"train/{name}"] for name in LOSSES) == pytest.approx(first["train/loss"], rel=1e-5)
    assert all(0 <= last[f"{prefix}/{name}"] <= 100 for prefix in ("eval", "eval_ema") for name in METRICS)


def evaluated(workdir: Path, folder: Path) -> tuple[dict, list]:
    """Scores and detections on two devices."""
    files = {name: folder / f"{name}.two" for name in ("json", "results")}
    words = ["eval", f"--workdir={workdir}", *(f"--{name}={file}" for name, file in files.items())]
    on_two_devices(folder / "output", tuple(words))
    scores, results = (json.loads(file.read_text()) for file in files.values())
    return scores, results


def test_eval_gives_what_training_logged_on_any_number_of_devices(workdir, scenes, tmp_path, capsys):
    """Also the detections, though batches hold other images."""
    files = {name: tmp_path / f"{name}.file" for name in ("json", "csv", "results")}
    assert launch("eval", f"--workdir={workdir}", *(f"--{k}={v}" for k, v in files.items())) == 0
    printed, logged = capsys.readouterr().out, read_metrics(workdir)[-1]
    scores, results = (json.loads(files[name].read_text()) for name in ("json", "results"))
    assert {name: scores[name] for name in METRICS} == {name: logged[f"eval/{name}"] for name in METRICS}
    with files["csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class"] for row in rows] == list("0123456789") and "mask AP50 (%)" in printed
    seen = [float(row["box AP (%)"]) for row in rows if row["box AP (%)"]]
    assert np.mean(seen) == pytest.approx(scores["bbox_map"], rel=1e-9)

    truth = json.loads((scenes / "annotations" / "instances_val.json").read_text())
    ids, categories = ({one["id"] for one in truth[name]} for name in ("images", "categories"))
    assert results and {one["image_id"] for one in results} <= ids
    assert {one["category_id"] for one in results} <= categories

    other_scores, other_results = evaluated(workdir, tmp_path)
    assert {name: other_scores[name] for name in METRICS} == {name: scores[name] for name in METRICS}
    assert other_results == results


def test_predict_and_the_library_agree(workdir, scenes, tmp_path, capsys):
    files = sorted((scenes / "val").iterdir())[:3]
    out = tmp_path / "out"
    words = ("--workdir", workdir, *files, "--out", out, "--threshold", 0, "--sheet", tmp_path / "sheet.png")
    assert launch("predict", *words) == 0, capsys.readouterr().err
    written = json.loads((out / "detections.json").read_text())
    found = qsdt_jax.load(workdir).predict(files)
    assert sum(map(len, found.images)) == len(written) > 0
    boxes = np.concatenate([np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in found.boxes])
    np.testing.assert_allclose([one["bbox"] for one in written], boxes, atol=1e-3)
    for image, file in zip(found.images, files, strict=True):
        with Image.open(file) as opened:
            assert image.image.shape[:2] == opened.size[::-1]
        assert (out / f"{file.stem}.png").exists()
    first = next(image for image in found.images if len(image))
    np.testing.assert_array_equal(decode(written[0]["segmentation"]).astype(bool), first.masks[0])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_a_saved_detector_finds_the_same(workdir, scenes, tmp_path):
    network, file = qsdt_jax.load(workdir), next(iter((scenes / "val").iterdir()))
    qsdt_jax.save(network, tmp_path / "saved")
    assert "pipeline_tag: object-detection" in (tmp_path / "saved" / "README.md").read_text()
    expected, found = (one.predict(file) for one in (network, qsdt_jax.load(tmp_path / "saved")))
    np.testing.assert_array_equal(found.boxes[0], expected.boxes[0])
    np.testing.assert_array_equal(found.scores[0], expected.scores[0])


def test_information_on_attention_is_of_networks_with_logits(workdir, capsys):
    """`export` and `energy` of a detector are in test_export_detection.py."""
    assert launch("information", "--workdir", workdir) == 2
    told = capsys.readouterr().err
    assert told.count("error: ") == 1 and "has a detector; expected a classifier or a segmenter" in told


def test_inspect_and_bench(capsys, tmp_path):
    config = f"--config={LIGHT}"
    assert launch("inspect", config, "--layers") == 0
    printed = capsys.readouterr().out
    assert "3 classes" in printed and "mask_head/classifier" in printed and "rpn/score" in printed
    # What the levels share counts once: two numbers for each batch norm's channel and layer scales are left.
    [rest] = re.findall(r"batch norms, layer scales +(\S+)", printed)
    assert int(rest.replace(",", "")) > 0
    assert launch("bench", config, "--steps=1", f"--json={tmp_path / 'bench.json'}") == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["train"]["images_per_second"] > 0 and result["inference"]["images_per_second"] > 0
    assert result["integer"]["images_per_second"] > 0 and "onnx" not in result
    assert not [line for line in result["setting"]["remarks"] if "integer form" in line]
    floats = (config, "--config.model.final_neuron=False", "--steps=1")
    assert launch("bench", *floats, "--modes=integer,input", f"--json={tmp_path / 'b.json'}") == 0
    told = json.loads((tmp_path / "b.json").read_text())["setting"]["remarks"][-1]
    assert told.startswith("the integer form is not timed: class and box of this detector take real values")
    capsys.readouterr()
    assert launch("bench", *floats, "--modes=integer") == 2
    assert "error: class and box of this detector take real values" in capsys.readouterr().err


def test_both_modes_of_devices_and_remat_compute_the_same(tmp_path):
    """The losses of the one step of a run whose images have one orientation."""
    ways = {
        "jit": (),
        "other": (
            "--config.parallel.mode=pmap",
            "--config.model.remat=blocks",
            "--config.profile.steps=1-1",
        ),
    }
    simple = (
        "--config.steps=1",
        "--config.accumulate=1",
        "--config.optimizer.schedule=cosine",
        "--config.optimizer.warmup_steps=0",
        "--config.data.portrait=False",
        "--config.data.buckets=((48,48),)",
    )
    commands = [
        ("--config", LIGHT, "--workdir", tmp_path / name, *simple, *words) for name, words in ways.items()
    ]
    on_two_devices(tmp_path / "output", *commands)
    lines = [read_metrics(tmp_path / name)[0] for name in ways]
    expected, found = ([line[f"train/{name}"] for name in LOSSES] for line in lines)
    assert all(loss > 0 for loss in expected)
    assert found == pytest.approx(expected, rel=1e-4)
    assert list((tmp_path / "other").rglob("*.trace.json.gz"))


def test_a_study_of_detectors_is_read(tmp_path, capsys, monkeypatch):
    """Its rows are built and refused as those of a classifier; the metric is the task's first."""
    study = tmp_path / "study.py"
    study.write_text(
        "from tests.configs.tiny_det import get_config\nSEEDS = 1\n"
        'ROWS = (("scale 2", {}), ("scale 0", {"model.anchor_scale": 0.0}))\n'
    )
    assert launch("ablate", f"--config={study}", f"--workdir={tmp_path / 'work'}") == 2
    assert "anchor_scale must be positive" in capsys.readouterr().err
