"""The table of the resolved recipe tells what the run does."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from configs import ade20k_s, cifar10dvs, imagenet_s
from launch.recipe import recipe
from qsdt_jax.assemble.build import build_run
from qsdt_jax.errors import UserError
from qsdt_jax.train.run import Run
from tests.launch.tiny import launch, tiny_config

SMALL = {"model.channels": (8, 8, 16, 16), "model.depth": 2, "model.num_heads": 4, "data.source": "fake"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A network takes seconds to trace, and the table does not need it."""
    for build in ("build_model", "build_segmenter"):
        monkeypatch.setattr(f"qsdt_jax.assemble.tasks.{build}", lambda *_: None)


def table(run: Run) -> dict[str, str]:
    """What it says by the names of its rows."""
    return {line[2:16].strip(): line[18:] for line in recipe(run).splitlines()}


def test_imagenet_as_the_paper_and_its_code_have_it():
    """Table 8 of the paper; the numbers of steps are arithmetic: 1,281,167 images are 817 whole batches."""
    config = imagenet_s.get_config("published")
    config.update_from_flattened_dict({**SMALL, "data.fake_images": 1_281_167, "accumulate": 8})
    assert 1_281_167 // 1568 == 817 and math.isclose(6e-4 * 1568 / 256, 3.675e-3)
    assert table(build_run(config)) == {
        "network": "channels 8, 8, 16, 16, 2 blocks, 4-bit weights, ie_lif, D = 4, T = 1, bfloat16 products",
        "data": "fake: 1,281,167 images at 224x224x3, 1,000 classes",
        "augmentation": "crop_flip (area 0.08 to 1, aspect 0.75 to 1.33), 2 of RandAugment, 9 / 0.5, "
        "random erasing 0.25",
        "devices": "1 process, 1 device (cpu)",
        "batch": "1,568 images a step, in 8 parts of 196, batch-norm statistics of 196 images",
        "length": "300 epochs of 817 steps: 245,100 steps",
        "learning rate": "0.0006 x 1,568 / 256 = 0.003675 at its peak, after 12,255 steps of warm-up; "
        "half a cosine to 1e-06 in the last step",
        "optimiser": "lamb, weight decay 0.05 on tensors of two or more axes, gradient norm clipped to 1",
        "loss": "cross-entropy, label smoothing 0.1",
        "moving average": "of 0.99996, evaluated beside the variables",
        "evaluation": "of test every 817 steps, in batches of 256",
        "checkpoints": "after each evaluation and every 1,000 steps; the newest 2 and the best 1 stay",
        "seed": "0",
    }


def test_bits_of_single_layers():
    rules = (("seg.*", 32), ("head", 8))
    found = table(build_run(tiny_config(**{"model.bits_rules": rules, "model.bits": 2})))
    assert ", 2-bit weights (`seg.*`: float, `head`: 8-bit), ie_lif, " in found["network"]


def test_events():
    config = cifar10dvs.get_config()
    config.update_from_flattened_dict({**SMALL, "data.fake_images": 9000, "data.fake_classes": 10})
    found = table(build_run(config))
    assert found["data"] == "fake: 9,000 streams in frames of 128x128x2, 10 classes"
    assert found["augmentation"] == "flip_roll by up to 5 pixels, frames by count, mixup 0.8, cutmix 1"
    assert found["learning rate"].startswith("0.0002 x 128 / 256 = 0.0001 at its peak, without warm-up;")
    assert found["moving average"] == "none"


def test_images_with_annotations():
    config = imagenet_s.get_config()
    task = {"task.name": "tests.assemble.annotated_task:TASK", "data.augmentation": "resize_crop_flip"}
    others = dict.fromkeys(("randaugment_magnitude", "erase_probability", "mixup", "cutmix"), 0.0)
    config.update_from_flattened_dict(
        {**SMALL, **task, "data.photometric": True, "data.image_size": (16, 32)}
    )
    config.data.update(others)
    config.batch_size, config.model.norm_group = 16, 0
    found = table(build_run(config))
    assert found["data"] == "fake: 1,024 images at 16x32x3, 1,000 classes"
    named = "resize_crop_flip (ratio 0.5 to 2, classes below 0.75), photometric distortion"
    assert found["augmentation"] == named
    config.data.largest_share, config.data.augmentation = 1.0, "resize_crop"
    named = "resize_crop (ratio 0.5 to 2), photometric distortion"
    assert table(build_run(config))["augmentation"] == named


def test_ade20k_as_the_published_code_has_it():
    config = ade20k_s.get_config("published")
    fake = {"data.fake_images": ade20k_s.IMAGES, "data.fake_classes": 150}
    config.update_from_flattened_dict({**SMALL, **fake})
    found = table(build_run(config))
    assert {row: found[row] for row in ("data", "augmentation", "length", "learning rate", "optimiser")} == {
        "data": "fake: 20,210 images at 512x512x3, scaled to a short side of 512 or a long side of 2,048, "
        "150 classes",
        "augmentation": "resize_crop_flip (ratio 0.5 to 2, classes below 0.75), photometric distortion",
        "length": "158.4 epochs of 1,010 steps: 160,000 steps",
        "learning rate": "0.0128 x 20 / 256 = 0.001 at its peak, after 1,500 steps of warm-up; "
        "(1 - x)^1 to 0 in the last step; times 2 for `seg_head/.*`",
        "optimiser": "adamw, weight decay 0.005 on all tensors, gradients not clipped",
    }
    assert found["loss"] == "cross-entropy, mean over all pixels"


def test_other_tasks_do_not_scale_by_a_side():
    assert "scaled" not in table(build_run(tiny_config(**{"data.short_side": 32})))["data"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_rates_are_those_of_the_optimiser(epochs):
    """Also of a run that is shorter than its warm-up."""
    run = build_run(tiny_config(epochs=epochs, start_from="runs/a"))
    rates = [float(run.schedule(step)) for step in range(run.total_steps)]
    # A cosine near -1 is rounded in float32 as 1 is.
    np.testing.assert_allclose(run.learning_rates(), rates, rtol=1e-6, atol=1e-7 * max(rates))
    found = table(run)
    assert f" = {max(rates):.4g} at its peak, after {np.argmax(rates)} steps of" in found["learning rate"]
    assert f"to {rates[-1]:.3g} in the last step" in found["learning rate"]
    assert found["starts from"] == "runs/a"


@pytest.mark.parametrize("first", [True, False])
def test_training_begins_with_it_in_one_process(first, tmp_path, capsys, monkeypatch):
    """After whatever may keep the run from starting, and before anything else."""

    def session(run, *others):
        assert capsys.readouterr().err == (recipe(run) + "\n") * first
        raise UserError("enough")

    monkeypatch.setattr("qsdt_jax.train.loop._Session", session)
    monkeypatch.setattr("qsdt_jax.train.loop.is_first", lambda: first)
    words = ("--config=tests/configs/tiny.py", f"--workdir={tmp_path / 'run'}")
    assert launch(*words) == 2
    assert capsys.readouterr().err == "error: enough\n"
    (tmp_path / "file").write_text("")
    assert launch(words[0], f"--workdir={tmp_path / 'file'}") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_processes_and_devices_are_told(monkeypatch):
    run = build_run(tiny_config())
    monkeypatch.setattr("jax.process_count", lambda: 2)
    devices = tuple(SimpleNamespace(device_kind="NVIDIA H100") for _ in range(8))
    parallel = SimpleNamespace(devices=devices, mode="jit")
    found = table(dataclasses.replace(run, parallel=parallel, batch_size=64))
    assert found["devices"] == "2 processes, 8 devices (NVIDIA H100)"
    assert found["batch"].startswith("64 images a step, 8 on each device (jit), ")
