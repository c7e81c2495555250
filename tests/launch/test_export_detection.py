"""A detector by the command line: exported, verified, and asked again as a bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import qsdt_jax
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.configuration.defaults import base_config
from tests.deploy.nets import draw_images, draw_variables
from tests.launch.tiny import launch, make_state, write_workdir

pytestmark = pytest.mark.slow

NAMES = ("0", "1")


def config_of(**overrides) -> ConfigDict:
    config = base_config()
    config.task.name = "detection"
    config.model.update(channels=(4, 4, 8, 8), depth=2, num_heads=2, mlp_ratio=1, levels=2)
    config.model.update(fpn_channels=6, box_features=8, final_neuron=True, anchor_scale=4.0)
    config.detection.update(test_proposals=(24, 10), detections=6, score_threshold=0.2)
    config.data.update(source="fake", fake_images=5, fake_classes=2, image_size=(32, 48), augmentation="none")
    config.data.update(short_side=24, long_side=48, buckets=((48, 48),), classes=NAMES)
    config.batch_size, config.eval.batch_size = 4, 3
    config.update_from_flattened_dict(overrides)
    return config


def write(folder: Path, **overrides) -> Path:
    """The workdir of a run with drawn variables."""
    config = config_of(**overrides)
    folder.mkdir()
    variables = draw_variables(build_task(config, NAMES).model)
    return write_workdir(folder, config, {1: make_state(config, variables)})


def test_export_verify_predict_and_load(tmp_path, capsys):
    workdir, bundle = write(tmp_path / "run"), tmp_path / "model.qsdt"
    assert launch("export", "--workdir", workdir, "--out", bundle, "--verify=4") == 0, capsys.readouterr().err
    told = capsys.readouterr().out.splitlines()
    assert "weights of 4 bits" in told[0]
    assert told[-1].startswith(
        "verified on 4 images of the test split: training form, integer form, spike-driven form give the same"
    )
    assert told[-1].endswith(
        " spike counts, 24 categories, 96 coordinates of boxes, 18,816 mask probabilities and 24 scores, "
        "bit for bit"
    )

    picture = tmp_path / "picture.png"
    array = np.clip(128 + 60 * draw_images(30, 40, 3), 0, 255).astype(np.uint8)
    Image.fromarray(array).save(picture)
    files = {name: tmp_path / name for name in ("of_run", "of_bundle")}
    for name, network in (("of_run", ("--workdir", workdir)), ("of_bundle", ("--bundle", bundle))):
        words = (*network, "--out", files[name], "--sheet", tmp_path / f"{name}.png", "--threshold=0.2")
        assert launch("predict", *words, picture) == 0, capsys.readouterr().err
    found = [json.loads((folder / "detections.json").read_text()) for folder in files.values()]
    assert len(found[1]) and found[0] == found[1]

    opened = qsdt_jax.load(bundle)
    detections = opened.predict([array, array[:20]])
    expected = qsdt_jax.load(workdir).predict([array, array[:20]])
    assert detections.class_names == NAMES and len(detections.scores[0]) == 6
    for own, other in zip(detections.boxes, expected.boxes, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4)

    capsys.readouterr()
    for words in (
        ("--workdir", workdir),
        ("--bundle", bundle, "--workdir", workdir, "--out", tmp_path / "e"),
    ):
        assert launch("energy", *words, "--images=5") == 0, capsys.readouterr().err
        told = capsys.readouterr().out
        assert "counted for 10 regions (box head) and 6 (mask head) of an image" in told
        assert (
            "RoIAlign, decoding of boxes and non-maximum suppression are counted under no convention" in told
        )
    tables = [(folder / "energy.csv").read_text() for folder in (workdir / "energy", tmp_path / "e")]
    assert tables[0] == tables[1] and "rpn/conv/conv at stride 64" in tables[0]

    assert launch("export", "--workdir", workdir, "--onnx", tmp_path / "model.onnx") == 2
    assert "a detector has no ONNX model; expected a network that classifies" in capsys.readouterr().err
    assert launch("export", "--workdir", workdir, "--stablehlo", tmp_path / "model.stablehlo") == 2
    assert "a detector has no StableHLO program" in capsys.readouterr().err
    assert launch("export", "--workdir", workdir, "--nir", tmp_path / "model.nir") == 2
    assert "a detector has no NIR graph" in capsys.readouterr().err
    assert launch("export", "--workdir", workdir, "--c", tmp_path / "c") == 2
    assert "a detector has no C form; expected" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_what_has_no_deployed_form_is_told_in_a_line(tmp_path, capsys):
    workdir = write(tmp_path / "run", **{"model.final_neuron": False})
    assert launch("export", "--workdir", workdir, "--out", tmp_path / "model.qsdt") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "take real values (final_neuron=False)" in told
