"""A configuration becomes a run, and a value that cannot be one is refused with its key."""

import math
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.assemble.build import build_parallel, build_run
from qsdt_jax.assemble.data import build_preprocess, build_source
from qsdt_jax.assemble.network import OF_DETECTOR, OF_SEGMENTER
from qsdt_jax.data.images import Normalization
from qsdt_jax.errors import OutOfRange, UserError
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.train.parallel import Parallel
from tests.configs import tiny_seg
from tests.launch.tiny import resformer_config, tiny_config

# Values that the networks and the library refuse themselves; one of each kind, since each traces a network.
MODEL = [
    ({"model.bits": 0}, "config.model: weights have 1 to 8 bits (32 for float), got 0"),
    (
        {"model.bits_rules": (("neck", 8),)},
        "config.model: the pattern 'neck' of a bits rule matches no layer; layers are called like 'head'",
    ),
    (
        {"model.bits_rules": (("head", 9),)},
        "config.model.bits_rules: weights have 1 to 8 bits (32 for float), got 9",
    ),
    (
        {"model.bits_rules": (("head", 8), ("conv", "8"))},
        "config.model.bits_rules has ('conv', '8'); expected pairs like ('head', 8)",
    ),
    ({"model.bits": 9}, "config.model: weights have 1 to 8 bits (32 for float), got 9"),
    (
        {"model.levels": 1000},
        "config.model: sums in block3_0/attn can reach 16000000000, but int32 holds whole numbers up to "
        "2147483647: take fewer levels, or exact_evaluation=False, with which they are rounded",
    ),
    ({"model.levels": 0}, "config.model: levels and timesteps must be at least 1, got 0 and 1"),
    ({"model.timesteps": 0}, "config.model: levels and timesteps must be at least 1, got 4 and 0"),
    ({"model.depth": 1}, "config.model: depth must be at least 2, got 1"),
    ({"model.num_heads": 3}, "config.model: 3 heads do not divide 16 channels"),
    ({"model.num_heads": 0}, "config.model: num_heads must be at least 1, got 0"),
    ({"model.mlp_ratio": -1}, "config.model: mlp_ratio must be at least 1, got -1"),
    (
        {"model.channels": (7, 8, 16, 16)},
        "config.model: channels are four positive widths, the first even; got (7, 8, 16, 16)",
    ),
    ({"model.channels": (8, 8, 16)}, "config.model.channels=(8, 8, 16) must be 4 whole numbers"),
    ({"model.channels": (8, 8, 16, "a")}, "config.model.channels=(8, 8, 16, 'a') must be 4 whole numbers"),
    ({"resformer.channels": (8, 16)}, "config.resformer.channels=(8, 16) must be () or 3 whole numbers"),
    ({"model.neuron": "lif"}, "config.model: a lif neuron is binary: levels must be 1, got 4"),
    ({"model.neuron": "elu"}, "config.model: unknown neuron 'elu'"),
    ({"model.decay": 1.5}, "config.model: decay must lie in [0, 1], got 1.5"),
    ({"model.reset": "none"}, "config.model: reset must be 'soft' or 'hard', got 'none'"),
    (
        {"model.surrogate": "step"},
        "config.model: surrogate must be one of straight_through, rectangular, triangle, sigmoid, arctan; "
        "got 'step'",
    ),
    ({"model.rectify": "relu"}, "config.model: rectify must be one of bn, norm; got 'relu'"),
    ({"model.dtype": "float16"}, "config.model.dtype='float16' is none of float32, bfloat16, float64"),
]
DATA = [
    (
        {"data.source": "tfrecord"},
        "config.data.source='tfrecord' is none of digits, folder, tfds, digits_dvs, motion_dvs, ade20k, "
        "segfolder, coco, fake, nor MODULE:NAME",
    ),
    *(
        (
            {"data.source": f"os:{name}"},
            f"config.data.source='os:{name}': expected a function of config and split",
        )
        for name in ("sep", "getcwd")
    ),
    ({"data.source": "folder"}, "config.data.path is empty; a folder source needs the images' folder"),
    (
        {"data.source": "folder", "data.path": "/nowhere"},
        "/nowhere/train is not a folder; expected /nowhere/train/CLASS/IMAGE.jpg",
    ),
    ({"data.channels": 3}, "the digits have 1 channel, but config.data.channels=3"),
    (
        {"data.image_size": (32, 40)},
        "config.data.image_size=(32, 40): height and width must be multiples of 16",
    ),
    ({"data.image_size": (0, 0)}, "config.data.image_size=(0, 0): height and width must be multiples of 16"),
    ({"data.image_size": (32,)}, "config.data.image_size=(32,) must be 2 whole numbers"),
    ({"data.image_size": (32.0, 32)}, "config.data.image_size=(32.0, 32) must be 2 whole numbers"),
    ({"data.augmentation": "flip"}, "config.data.augmentation='flip' is none of none, affine, crop_flip"),
    ({"data.mean": (0.1, 0.2)}, "config.data.mean has 2 values for 1 channels"),
    ({"data.mean": (math.nan,)}, "config.data.mean=(nan,) must be numbers"),
    ({"data.std": (0.0,)}, "config.data.std=(0.0,) must be positive numbers"),
    ({"data.std": ("a",)}, "config.data.std=('a',) must be positive numbers"),
    ({"data.workers": -2}, "config.data.workers=-2 must be at least -1"),
    ({"data.source": "fake", "data.channels": 0}, "config.data.channels=0 must be at least 1"),
    ({"data.source": "fake", "data.fake_classes": 0}, "config.data.fake_classes=0 must be at least 1"),
    ({"data.source": "fake", "data.fake_images": -1}, "config.data.fake_images=-1 must be at least 1"),
    ({"data.classes": ([1],)}, "config.data.classes=([1],) must be texts, each once"),
    ({"data.classes": ("1", "1")}, "config.data.classes=('1', '1') must be texts, each once"),
    (
        {"eval.splits": (["test"],)},
        "config.eval.splits=(['test'],) must be one or more of test, train, each once",
    ),
    ({"profile.steps": "9990-9999"}, "config.profile.steps='9990-9999': the run has only 660 steps"),
]
TRAINING = [
    ({"seed": -1}, "config.seed=-1 must be at least 0"),
    ({"epochs": 0}, "config.epochs=0 must be at least 1"),
    ({"batch_size": 0}, "config.batch_size=0 must be at least 1"),
    ({"batch_size": 1438}, "config.batch_size=1438 exceeds the 1437 training images"),
    ({"accumulate": 3}, "config.accumulate=3 does not divide the batch of 64 images"),
    (
        {"accumulate": 4, "model.norm_group": 5},
        "config.model.norm_group=5 does not divide the 16 images of a micro-batch",
    ),
    ({"optimizer.name": "sgd"}, "config.optimizer.name='sgd' is none of lamb, adamw"),
    (
        {"optimizer.learning_rate": math.nan},
        "config.optimizer.learning_rate=nan must be at least 0",
    ),
    *(
        (
            {"optimizer.drops": drops},
            f"config.optimizer.drops={drops} must be one or more ascending numbers between 0 and 1",
        )
        for drops in ((), (0.5, 1.0), (0.9, 0.5), ("a",))
    ),
    ({"optimizer.warmup_epochs": math.inf}, "config.optimizer.warmup_epochs=inf must be at least 0"),
    ({"loss.label_smoothing": 1.0}, "config.loss.label_smoothing=1.0 must lie in [0, 1)"),
    ({"model.drop_path": -0.1}, "config.model.drop_path=-0.1 must lie in [0, 1)"),
    ({"ema_decay": 1.0}, "config.ema_decay=1.0 must lie in [0, 1)"),
    ({"eval.every_epochs": 0.0}, "config.eval.every_epochs=0.0 must be positive"),
    ({"eval.every_epochs": math.nan}, "config.eval.every_epochs=nan must be positive"),
    ({"eval.batch_size": 0}, "config.eval.batch_size=0 must be at least 1"),
    ({"log.every_steps": 0}, "config.log.every_steps=0 must be at least 1"),
    ({"checkpoint.every_steps": 0}, "config.checkpoint.every_steps=0 must be at least 1"),
    ({"checkpoint.keep_latest": 0}, "config.checkpoint.keep_latest=0 must be at least 1"),
]


@pytest.mark.parametrize(
    ("overrides", "told"),
    MODEL + DATA + TRAINING,
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_values_out_of_range(overrides, told):
    with pytest.raises(UserError) as caught:
        build_run(tiny_config(**overrides))
    assert str(caught.value) == told


def test_refusals_of_devices_name_keys_where_there_are_some(monkeypatch):
    for error, expected in (
        (OutOfRange("fsdp", "2 is much"), "config.parallel.fsdp=2 is much"),
        (OutOfRange("norm_group", "3=3"), "config.model.norm_group=3=3"),
        (UserError("fsdp=b"), "fsdp=b"),
        (UserError("no"), "no"),
    ):

        def refuse(*arguments, error=error):
            raise error

        monkeypatch.setattr(Parallel, "check_batch", refuse)
        with pytest.raises(UserError) as caught:
            build_parallel(tiny_config())
        assert str(caught.value) == expected


def test_the_run_of_a_configuration():
    config = tiny_config(epochs=3, batch_size=100, **{"eval.every_epochs": 0.5, "checkpoint.every_steps": 9})
    run = build_run(config)
    assert run.total_steps == 3 * (1437 // 100)
    assert (run.eval_every, run.save_every, run.batch_size) == (7, 9, 100)
    assert run.config == config.to_dict()
    # The peak is given for 256 images and reached after two epochs.
    assert run.schedule(0) == 0
    assert float(run.schedule(28)) == pytest.approx(1e-2 * 100 / 256, rel=1e-6)
    batch = next(run.training_data(5))
    assert (batch["image"].shape, batch["label"].shape) == ((100, 32, 32, 1), (100,))
    assert batch["image"].dtype == np.uint8 and run.normalization == Normalization((0.31,), (0.35,))
    assert sum(int(batch["mask"].sum()) for batch in run.evaluation_data["test"]()) == 360


def test_every_value_of_a_recipe_arrives():
    """Each one differs from its default and from its neighbours, so none can stand for another."""
    network = {"num_heads": 8, "mlp_ratio": 3, "bits": 5, "levels": 3, "timesteps": 2, "decay": 0.6}
    network |= {"neuron": "i_lif", "reset": "hard", "surrogate": "arctan", "rectify": "norm"}
    network |= {"attention": "softmax", "attention_scale": 0.7, "layer_scale_init": 0.01, "drop_path": 0.35}
    network |= {"distillation_head": True, "norm_group": 4, "exact_evaluation": False, "remat": "blocks"}
    network |= {"attention_tokens": 3, "freeze_statistics": True, "decay_input": True, "layer_scale": False}
    network |= {"attention_gain": 1.5, "attention_threshold": 0.8, "qkv_bias_init": 0.9}
    overrides = {f"model.{name}": value for name, value in network.items()}
    overrides |= {"loss.label_smoothing": 0.2, "data.mixup": 0.3, "data.cutmix": 0.9, "ema_decay": 0.8}
    overrides |= {"accumulate": 2, "seed": 5, "log.every_steps": 3, "checkpoint.every_steps": 6}
    overrides |= {"checkpoint.keep_latest": 7, "checkpoint.keep_best": 4, "profile.steps": "8-11"}
    config = tiny_config(**overrides, **{"model.bits_rules": (("head", 2),)})
    run = build_run(config)
    task: Any = run.task
    assert (task.label_smoothing, task.mixup_alpha, task.cutmix_alpha) == (0.2, 0.3, 0.9)
    assert (run.ema_decay, run.accumulate, run.seed, run.log_every, run.save_every) == (0.8, 2, 5, 3, 6)
    assert (run.keep_latest, run.keep_best, run.profile_steps) == (7, 4, (8, 11))
    backbone = task.model.backbone
    found = {**vars(backbone), "distillation_head": task.model.distillation_head}
    assert {name: found[name] for name in network} == network
    assert (backbone.channels, backbone.depth) == ((8, 8, 16, 16), 2)
    assert (task.model.num_classes, backbone.in_channels) == (10, 1)
    assert backbone.bits_rules == (BitsRule(pattern="head", bits=2),)
    untested = {"channels", "depth", "bits_rules", "dtype"}
    assert {*network, *untested, *OF_DETECTOR} == {*config.model}


def test_every_value_of_a_spikingresformer_arrives():
    sizes = {"channels": (8, 16, 16), "num_heads": (1, 2, 4), "patches": (3, 2, 1), "depths": (1, 2, 1)}
    sizes |= {"group_size": 32, "small_images": True, "learned_decay": True, "nominal_size": 64}
    overrides = {f"resformer.{name}": value for name, value in sizes.items()}
    overrides |= {"model.timesteps": 2, "loss.each_step": True}
    config = resformer_config(**overrides)
    task: Any = build_run(config).task
    found = {name: getattr(task.model, name) for name in sizes}
    assert found == sizes and sizes.keys() == {*config.resformer}
    assert (task.model.timesteps, task.model.num_classes, task.model.in_channels) == (2, 10, 1)
    assert task.each_step and task.loss_title == "cross-entropy of each time step, label smoothing 0.1"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            {"model.bits": 2},
            "config.model.bits=2, but config.resformer.channels asks for a SpikingResformer, which has no "
            "choice of it; expected 4",
        ),
        ({"resformer.num_heads": (1, 1, 3)}, "config.resformer: 3 heads do not divide 16 channels"),
        ({"resformer.nominal_size": 3}, "config.resformer: nominal_size 3 holds no patch in stage1"),
    ],
)
def test_what_a_spikingresformer_is_refused_for(overrides, told):
    with pytest.raises(UserError) as caught:
        build_run(resformer_config(**overrides))
    assert str(caught.value) == told


def test_every_value_of_an_optimizer_is_checked():
    """Rules of rates are pairs of a pattern and a factor, and only AdamW decays all tensors."""
    for rules, told in (
        ((("head", 2.0, 1),), "expected pairs like"),
        ((("head", -1.0),), "expected pairs like"),
        ((("(", 1.0),), "is no pattern"),
    ):
        with pytest.raises(UserError, match=told):
            build_run(tiny_config(**{"optimizer.rate_rules": rules}))
    with pytest.raises(UserError, match="decay_vectors=True needs adamw, not lamb"):
        build_run(tiny_config(**{"optimizer.decay_vectors": True, "optimizer.name": "lamb"}))


def test_the_length_of_a_run_in_steps():
    run = build_run(
        tiny_config(
            **{"steps": 40, "optimizer.schedule": "polynomial", "optimizer.power": 2.0},
            **{"optimizer.warmup_steps": 5, "optimizer.learning_rate": 1.0, "batch_size": 256},
        )
    )
    rates = run.learning_rates()
    assert run.total_steps == len(rates) == 40 and rates[4] == rates[5] == 1.0
    assert rates[6] == pytest.approx((1 - 1 / 34) ** 2, rel=1e-6) and rates[39] == 0


@pytest.mark.parametrize(
    ("config", "overrides", "told"),
    [
        (
            tiny_config(),
            {"data.source": "tests.assemble.annotated_task:source", "data.channels": 3, "data.mean": (0.5,)},
            "config.task.name='classification' learns from image, label; the examples of "
            "config.data.source='tests.assemble.annotated_task:source' have no label",
        ),
        (
            tiny_seg.get_config(),
            {"data.source": "digits", "data.channels": 1, "data.mean": (0.5,), "data.std": (0.5,)},
            "an example has image, label; expected an image and its annotation",
        ),
    ],
)
def test_data_of_another_task(config, overrides, told):
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError) as caught:
        build_run(config)
    assert str(caught.value) == told


def test_every_value_of_a_segmenter_arrives():
    config = tiny_seg.get_config()
    config.model.update(fpn_channels=6, neuron_input_gain=0.5, attention_tokens=3, bits=2)
    config.loss.update(average="labelled", class_weights=(0.5, 1.0, 2.0))
    task: Any = build_run(config).task
    assert task.average == "labelled" and task.class_weights == (0.5, 1.0, 2.0)
    assert task.model.num_classes == 3
    assert {name: getattr(task.model, name) for name in OF_SEGMENTER} == {
        "fpn_channels": 6,
        "neuron_input_gain": 0.5,
    }
    assert (task.model.backbone.attention_tokens, task.model.backbone.bits) == (3, 2)


def test_weights_of_other_classes():
    config = tiny_seg.get_config()
    config.loss.class_weights = (0.5, 1.0)
    told = "config.loss.class_weights has 2 numbers; expected none, or one for each of the 3 classes"
    with pytest.raises(UserError, match=re.escape(told)):
        build_run(config)
    config.loss.class_weights = (0.5, 1.0, 1e39)
    with pytest.raises(UserError, match=r"config\.loss\.class_weights=\(0\.5, 1\.0, 1e\+39\)"):
        build_run(config)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["train/cat", "train/dog", "val/cat"], "only the training split has 'dog'"),
        (["train/cat", "val/ant", "val/cat"], "only the test split has 'ant'"),
    ],
)
def test_splits_of_different_classes(tmp_path, folders, told):
    """Labels are numbers: those of one split would mean other classes than those of the other."""
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / folder / "x.png")
    with pytest.raises(UserError) as caught:
        build_run(tiny_config(**{"data.source": "folder", "data.path": str(tmp_path)}))
    assert str(caught.value).startswith("the test split has ") and str(caught.value).endswith(told)


def test_sources_by_name(tmp_path):
    (tmp_path / "val" / "cat").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "val" / "cat" / "x.png")
    folder = build_source(tiny_config(**{"data.source": "folder", "data.path": str(tmp_path)}), "test")
    assert (len(folder), folder.class_names) == (1, ("cat",))
    wide = build_source(tiny_config(**{"data.image_size": (32, 64)}), "test")
    assert np.shape(wide[0]["image"]) == (64, 64, 1)  # Covers the input, which is cut out of it.
    fake = build_source(tiny_config(**{"data.source": "fake", "data.fake_images": 7}), "train")
    assert len(fake) == 7 and np.shape(fake[0]["image"]) == (32, 32, 1)


def test_preprocessing():
    preprocess = build_preprocess(tiny_config(**{"data.image_size": (16, 32), "data.std": (0.5,)}))
    assert (preprocess.size, preprocess.mean, preprocess.std) == ((16, 32), (0.31,), (0.5,))
    assert preprocess.augmentation == "affine"
