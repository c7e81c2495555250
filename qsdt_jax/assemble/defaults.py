"""Every key of an experiment: its default, what it means and what it may be.

A config is plain data. `python -m launch --config configs/NAME.py --config.model.bits=2` overrides any key; a
misspelt one is refused. Lengths of time are in epochs here and become steps once the data are known.

`check_config` checks every value wherever a configuration comes in: from the command line, a workdir, a row
of a study, or a caller of `build_run`. What fits what is checked where the object is made, and the network
checks its own fields.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from qsdt_jax import bounds
from qsdt_jax.assemble.rules import (
    Numbers,
    OneOf,
    Positive,
    Range,
    Rule,
    Several,
    Share,
    Sides,
    SomeOf,
    Texts,
    WholeNumbers,
    Within,
)
from qsdt_jax.errors import UserError

FLOAT32 = 3.4e38  # About its largest number.
# Here as plain data, so that reading a config loads no library; tests hold them to the library's own.
DTYPES = ("float32", "bfloat16", "float64")
SLICINGS = ("count", "time", "sum")


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of an experiment.

    Attributes:
      default: its value where a config says nothing.
      meaning: in a few words.
      rule: what its value may be; None where that depends on others, or the network checks it.
      limit: the largest magnitude, of each number in a tuple: nobody who means it comes near it.
      floor: the smallest positive value, for the same reason.
    """

    default: Any
    meaning: str
    rule: Rule | None = None
    limit: float | None = None
    floor: float | None = None


KEYS: Mapping[str, Key] = {
    "seed": Key(
        0, "of everything random: weights, order, augmentation, drop path", Within(0), limit=2**31 - 1
    ),
    "start_from": Key("", "workdir of a trained network that a new run takes its weights from"),
    "epochs": Key(300, "passes through the training images", Within(1), limit=bounds.STEPS_OF_A_RUN),
    "steps": Key(0, "updates of the run; 0 for those of `epochs`", Within(0), limit=bounds.STEPS_OF_A_RUN),
    "batch_size": Key(256, "images per update", Within(1), limit=bounds.BATCH),
    "accumulate": Key(1, "micro-batches that an update is cut into", Within(1), limit=bounds.BATCH),
    "task.name": Key(
        "classification", "classification, semantic_segmentation, or your own, MODULE:NAME of a TaskFactory"
    ),
    "model.channels": Key(
        (64, 128, 256, 360), "C1..C4, widths of the stages", WholeNumbers(4), limit=bounds.CHANNELS
    ),
    "model.depth": Key(8, "transformer blocks, at least 2", limit=bounds.DEPTH),
    "model.num_heads": Key(8, "attention heads, which divide C3 and C4", limit=bounds.FACTOR),
    "model.mlp_ratio": Key(4, "widening in conv blocks and MLPs", limit=bounds.FACTOR),
    "model.bits": Key(4, "of the weights: 1..8, 32 for float"),
    "model.bits_rules": Key(
        (),
        "pairs (regular expression, bits) of layers that differ; the first that matches a whole path counts",
    ),
    "model.levels": Key(4, "D, largest spike count", limit=bounds.LEVELS),
    "model.timesteps": Key(1, "T, time steps", limit=bounds.TIMESTEPS),
    "model.neuron": Key("ie_lif", "ie_lif, i_lif, lif, quantized_relu; relu is none, for a float twin"),
    "model.decay": Key(None, "of the membrane per time step, 0..1; None: the neuron's own"),
    "model.reset": Key("soft", "of the membrane after a spike: soft, hard"),
    "model.surrogate": Key(
        "straight_through", "gradient of a spike: straight_through, rectangular, triangle, sigmoid, arctan"
    ),
    "model.rectify": Key("bn", "of q, k, v before they fire: bn (published code), norm"),
    "model.attention": Key("spiking", "spiking, softmax"),
    "model.attention_scale": Key(0.25, "factor on the attention product", limit=FLOAT32),
    "model.layer_scale_init": Key(1e-6, "initial layer scale of the transformer blocks", limit=FLOAT32),
    "model.attention_tokens": Key(
        0,
        "tokens of the images that attention_scale is meant for, which is divided by how many times as many "
        "an image has; 0: one factor for all",
        limit=bounds.SIDE**2,
    ),
    "model.drop_path": Key(
        0.0, "probability at the last block, rising from 0 at the first", Share(with_one=False)
    ),
    "model.distillation_head": Key(False, "a second head for distill.kd, as DeiT; the mean of both answers"),
    "model.fpn_channels": Key(128, "of segmentation: width of neck and head", limit=bounds.CHANNELS),
    "model.neuron_input_gain": Key(
        1.0,
        "of segmentation: factor on the input of every neuron of neck and head; 1/4 with published weights",
        limit=FLOAT32,
    ),
    "model.norm_group": Key(
        0, "images that share batch-norm statistics; 0 for the whole batch", Within(0), limit=bounds.BATCH
    ),
    "model.remat": Key("none", "none; blocks: computed again in the backward pass, less memory, more time"),
    "model.exact_evaluation": Key(True, "equal to the deployed network bit for bit, and slower"),
    "model.dtype": Key("float32", "operands of the products", OneOf(DTYPES)),
    "data.source": Key(
        "digits",
        "digits, folder, tfds, digits_dvs, motion_dvs, ade20k, segfolder, fake; "
        "or MODULE:NAME, a function of config and split",
    ),
    "data.path": Key(
        "",
        "folder: has train/CLASS/IMAGE.jpg and val/...; ade20k: images/training/NAME.jpg, annotations/...; "
        "segfolder: images/train/NAME.jpg, masks/..., classes.txt; tfds: what `prepare` made",
    ),
    "data.reduce_zero_label": Key(
        False, "of segfolder: number 0 of an annotation is ignored, and number k is class k - 1"
    ),
    "data.classes": Key((), "of digits, those to tell apart; none for all", Texts()),
    "data.digits_images": Key(
        0, "of digits, number of training images; 0 for all", Within(0), limit=bounds.IMAGES
    ),
    "data.digits_noise": Key(0.0, "of digits, standard deviation on the pixels of 8x8, white = 1", Within(0)),
    "data.corrupt_limit": Key(10, "records that each process skips in a start before it gives up", Within(0)),
    "data.image_size": Key((32, 32), "height, width; multiples of 16", Sides(16), limit=bounds.SIDE),
    "data.channels": Key(3, "of an image: 1 or 3; events have 2", Within(1), limit=bounds.CHANNELS),
    "data.mean": Key(
        (0.485, 0.456, 0.406),
        "of pixels in 0..1, in the normalisation",
        Numbers(positive=False),
        limit=FLOAT32,
    ),
    "data.std": Key(
        (0.229, 0.224, 0.225),
        "of pixels in 0..1, in the normalisation",
        Numbers(positive=True),
        limit=FLOAT32,
    ),
    "data.events": Key(False, "streams of an event camera, shown in T frames of 2 channels"),
    "data.slicing": Key(
        "count",
        "of events into frames: count (equal counts), time (equal times), or sum, T times",
        OneOf(SLICINGS),
    ),
    "data.roll": Key(0, "of events: largest shift in pixels", Within(0)),
    "data.augmentation": Key(
        "none",
        "images: none, affine, crop_flip; with annotations: none, resize_crop, "
        "resize_crop_flip; events: none, roll, flip_roll",
    ),
    "data.crop_area": Key((0.08, 1.0), "of crop_flip: bounds of the share of the area", Range(1)),
    "data.crop_aspect": Key((3 / 4, 4 / 3), "of crop_flip: bounds of width / height", Range()),
    "data.randaugment_magnitude": Key(
        0.0, "mean strength of two operations, 0..10; 0 for none", Within(0, 10)
    ),
    "data.randaugment_std": Key(0.5, "standard deviation of the strength", Within(0)),
    "data.erase_probability": Key(0.0, "that a box of the input is overwritten with noise", Within(0, 1)),
    "data.short_side": Key(
        0,
        "of images with annotations, what the short side becomes; 0: they keep their size",
        Within(0),
        limit=bounds.SIDE,
    ),
    "data.long_side": Key(2048, "the most that the long side then becomes", Within(1), limit=bounds.SIDE),
    "data.resize_ratio": Key(
        (0.5, 2.0), "of resize_crop: bounds of a further random factor", Range(bounds.RESIZE)
    ),
    "data.largest_share": Key(
        0.75,
        "of resize_crop: a part where a class has this share of the labelled pixels is drawn again, up "
        "to 10 times; 1 for any part",
        Share(with_one=True),
    ),
    "data.photometric": Key(
        False, "with annotations: random brightness, contrast, saturation and hue in training"
    ),
    "data.buckets": Key(
        (),
        "of images with annotations, sizes (height, width) of the arrays of an evaluation, of which an image "
        "takes the smallest that holds it; none: sides rounded up to multiples of half of image_size",
        Several(Sides(16)),
        limit=bounds.SIDE,
    ),
    "data.mixup": Key(0.0, "alpha of mixup's Beta distribution; 0 for none", Within(0), limit=FLOAT32),
    "data.cutmix": Key(
        0.0, "the same of cutmix; where both are on, each takes half of the batches", Within(0), limit=FLOAT32
    ),
    "data.eval_crop_ratio": Key(
        1.0,
        "image_size / the side that images are scaled to for evaluation",
        Share(with_one=True),
        floor=bounds.SMALLEST_CROP,
    ),
    "data.workers": Key(
        0,
        "processes that read and augment; 0: a thread a core, -1: a process a core",
        Within(-1),
        limit=bounds.WORKERS,
    ),
    "data.fake_images": Key(1024, "length of a fake source", Within(1), limit=bounds.IMAGES),
    "data.fake_classes": Key(1000, "classes of a fake source", Within(1), limit=bounds.CLASSES),
    "optimizer.name": Key("lamb", "of the optimiser", OneOf(("lamb", "adamw"))),
    "optimizer.learning_rate": Key(
        6e-4, "per 256 images of batch_size; the peak is scaled linearly", Within(0), limit=FLOAT32
    ),
    "optimizer.warmup_epochs": Key(
        10.0, "of a rate that rises; half of a run that has no more epochs", Within(0)
    ),
    "optimizer.warmup_steps": Key(
        0, "the same in steps; 0 for those of `warmup_epochs`", Within(0), limit=bounds.STEPS_OF_A_RUN
    ),
    "optimizer.schedule": Key(
        "cosine",
        "after the warm-up: cosine to 1e-6; polynomial, (1 - x)^power to 0 in the last step",
        OneOf(("cosine", "polynomial")),
    ),
    "optimizer.power": Key(0.9, "of the polynomial", Positive(), limit=FLOAT32),
    "optimizer.weight_decay": Key(0.05, "on tensors of two or more axes", Within(0), limit=FLOAT32),
    "optimizer.decay_vectors": Key(False, "with adamw, decay on all other tensors as well"),
    "optimizer.rate_rules": Key(
        (),
        "pairs (regular expression, factor) on the learning rate of tensors; the first that matches a whole "
        "path counts",
    ),
    "optimizer.clip_norm": Key(1.0, "global gradient norm; 0 for none", Within(0), limit=FLOAT32),
    "loss.label_smoothing": Key(
        0.0, "share of the target that all classes have in common", Share(with_one=False)
    ),
    "loss.average": Key(
        "all",
        "of segmentation, a mean over all pixels, ignored ones included (published), or over labelled ones",
        OneOf(("all", "labelled")),
    ),
    "loss.class_weights": Key(
        (),
        "of segmentation, a factor on the pixels of each class; () for 1",
        Numbers(positive=True),
        limit=FLOAT32,
    ),
    "parallel.mode": Key("jit", "jit: arrays cut over a mesh; pmap: the same program on each device"),
    "parallel.fsdp": Key(
        1, "with jit, devices that each large tensor of the state is cut over", limit=bounds.PROCESSES
    ),
    "distill.teacher": Key(
        "", "workdir of a network that teaches, or caformer_s18:FILE of timm (also s36, m36, b36)"
    ),
    "distill.dtype": Key("bfloat16", "operands of the teacher's products", OneOf(DTYPES)),
    "distill.fgd": Key(
        0.0, "weight of the distance between the Gram matrices of q, k and v", Within(0), limit=FLOAT32
    ),
    "distill.fgd_normalization": Key("frobenius", "of a Gram matrix", OneOf(("frobenius", "cosine"))),
    "distill.fgd_schedule": Key(
        "constant", "of that weight: constant, or cosine to 0 at the end", OneOf(("constant", "cosine"))
    ),
    "distill.kd": Key(
        0.0, "weight of the distance between the logits; 1 is DeiT's alpha 0.5", Within(0), limit=FLOAT32
    ),
    "distill.kd_target": Key(
        "soft", "soft: all probabilities of the teacher; hard: its first choice", OneOf(("soft", "hard"))
    ),
    "distill.temperature": Key(1.0, "of the soft target", Positive(), limit=FLOAT32),
    "profile.steps": Key("", "FIRST-LAST, as 10-15: writes a trace of these steps into the workdir"),
    "ema_decay": Key(0.0, "of the moving average of all variables; 0 for none", Share(with_one=False)),
    "eval.every_epochs": Key(1.0, "an evaluation, and one at the end", Positive()),
    "eval.batch_size": Key(256, "images at a time in evaluation", Within(1), limit=bounds.BATCH),
    "eval.splits": Key(
        ("test",),
        "of test and train; the first decides which checkpoint is best and is logged as eval/METRIC, another "
        "one as eval_SPLIT/METRIC",
        SomeOf(("test", "train")),
    ),
    "log.every_steps": Key(1, "a line of metrics", Within(1)),
    "checkpoint.every_steps": Key(1000, "a checkpoint, besides one after every evaluation", Within(1)),
    "checkpoint.keep_latest": Key(2, "newest checkpoints that stay", Within(1)),
    "checkpoint.keep_best": Key(1, "best checkpoints that stay", Within(0)),
}


def base_config() -> ConfigDict:
    """The defaults: the paper's network, size S, and the optimiser of its ImageNet recipe."""
    config: dict[str, Any] = {}
    for name, key in KEYS.items():
        *sections, last = name.split(".")
        tree = functools.reduce(lambda tree, section: tree.setdefault(section, {}), sections, config)
        tree[last] = placeholder(float) if key.default is None else key.default
    return ConfigDict(config)


def check_config(config: ConfigDict) -> None:
    """Refuses a value that its key does not allow, before anything is made of it.

    Raises:
      UserError: names the first of them.
    """
    for name, key in KEYS.items():
        value: Any = functools.reduce(operator.getitem, name.split("."), config)
        if fault := _fault(key, value):
            separator = "" if fault.startswith(":") else " "
            raise UserError(f"config.{name}={_short(value)}{separator}{fault}")


def _fault(key: Key, value: Any) -> str | None:
    """What is wrong with a value, or None."""
    if key.rule is not None and (fault := key.rule.fault(value)):
        return fault
    numbers = _numbers(value)
    if key.limit is not None and not all(abs(number) <= key.limit for number in numbers):
        shown = key.limit if isinstance(key.limit, int) else f"{key.limit:.3g}"
        return f"must be at most {shown}"
    if key.floor is not None and not all(number >= key.floor for number in numbers):
        return f"must be at least {key.floor}"
    return None


def _numbers(value: Any) -> list[int | float]:
    """Those in a value, also in tuples of tuples."""
    if isinstance(value, tuple | list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []


def _short(value: Any) -> str:
    """A value in a message: a text in quotes."""
    if isinstance(value, int) and abs(value) >= 10**30:  # Python itself refuses to write very long ones.
        return "a number of more than 30 digits"
    if isinstance(value, tuple | list) and any(isinstance(n, int) and abs(n) >= 10**30 for n in value):
        return "numbers of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
