"""Every key of an experiment: its default, what it means and what it may be.

A config is plain data. `python -m launch --config configs/NAME.py --config.model.bits=2` overrides any key; a
misspelt one is refused. Lengths of time are in epochs here and become steps once the data are known.

What a value may be is checked in `configuration.checked`. What fits what is checked where the object is made,
and the network checks its own fields.
"""

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from qsdt_jax import bounds
from qsdt_jax.configuration.key import FLOAT32, Key
from qsdt_jax.configuration.network_keys import DTYPES, NETWORK_KEYS
from qsdt_jax.configuration.rules import (
    Numbers,
    OneOf,
    Positive,
    Range,
    Several,
    SeveralWhole,
    Share,
    Shares,
    Sides,
    SomeOf,
    Texts,
    WholeNumbers,
    Within,
)

# Here as plain data, so that reading a config loads no library; tests hold them to the library's own.
SLICINGS = ("count", "time", "sum")

KEYS: Mapping[str, Key] = {
    "seed": Key(
        0, "of everything random: weights, order, augmentation, drop path", Within(0), limit=2**31 - 1
    ),
    "start_from": Key(
        "", "workdir or published file (.pth) of a trained network that a new run takes its weights from"
    ),
    "epochs": Key(300, "passes through the training images", Within(1), limit=bounds.STEPS_OF_A_RUN),
    "steps": Key(0, "updates of the run; 0 for those of `epochs`", Within(0), limit=bounds.STEPS_OF_A_RUN),
    "batch_size": Key(256, "images per update", Within(1), limit=bounds.BATCH),
    "accumulate": Key(1, "micro-batches that an update is cut into", Within(1), limit=bounds.BATCH),
    "task.name": Key(
        "classification",
        "classification, semantic_segmentation, detection, or your own, MODULE:NAME of a TaskFactory",
    ),
    **NETWORK_KEYS,
    "data.source": Key(
        "digits",
        "digits, folder, tfds, digits_dvs, motion_dvs, ade20k, segfolder, coco, fake; "
        "or MODULE:NAME, a function of config and split",
    ),
    "data.path": Key(
        "",
        "folder: has train/CLASS/IMAGE.jpg and val/...; ade20k: images/training/NAME.jpg, annotations/...; "
        "segfolder: images/train/NAME.jpg, masks/..., classes.txt; coco: annotations/instances_train*.json, "
        "train*/NAME.jpg; tfds: what `prepare` made",
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
    "data.channels": Key(
        3, "of an image: 1 or 3; events have 2, or 3 with their sum", Within(1), limit=bounds.CHANNELS
    ),
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
    "data.events": Key(False, "streams of an event camera, shown in T frames"),
    "data.slicing": Key(
        "count",
        "of events into frames: count (equal counts), time (equal times), or sum, T times",
        OneOf(SLICINGS),
    ),
    "data.roll": Key(0, "of events: largest shift in pixels", Within(0)),
    "data.augmentation": Key(
        "none",
        "images: none, affine, crop_flip; with annotations: none, resize_crop, resize_crop_flip; with "
        "objects: none, resize, resize_flip, resize_or_crop, resize_or_crop_flip; events: none, roll, "
        "flip_roll",
    ),
    "data.crop_area": Key((0.08, 1.0), "of crop_flip: bounds of the share of the area", Range(1)),
    "data.crop_aspect": Key((3 / 4, 4 / 3), "of crop_flip: bounds of width / height", Range()),
    "data.randaugment_magnitude": Key(
        0.0, "mean strength of the operations of RandAugment, 0..10; 0 for none", Within(0, 10)
    ),
    "data.randaugment_std": Key(0.5, "standard deviation of the strength", Within(0)),
    "data.randaugment_operations": Key(
        2, "drawn for each image, each applied with probability 1/2", Within(1), limit=bounds.OPERATIONS
    ),
    "data.erase_probability": Key(0.0, "that a box of the input is overwritten with noise", Within(0, 1)),
    "data.short_side": Key(
        0,
        "of images with annotations or objects, what the short side becomes; 0: they keep their size",
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
        "of images with annotations or objects, sizes (height, width) of arrays of an evaluation, of which "
        "an image takes the smallest that holds it; none: sides rounded up to multiples of half of "
        "image_size",
        Several(Sides(16)),
        limit=bounds.SIDE,
    ),
    "data.short_sides": Key(
        tuple(range(480, 801, 32)),
        "of resize and resize_or_crop: of which one is drawn, what the short side becomes in training",
        SeveralWhole(),
        limit=bounds.SIDE,
    ),
    "data.crop_short_sides": Key(
        (400, 500, 600), "of resize_or_crop: the same before a part is cut", SeveralWhole(), limit=bounds.SIDE
    ),
    "data.crop_sides": Key(
        (384, 600),
        "of resize_or_crop: bounds of height and width of that part",
        Range(bounds.SIDE, whole=True),
    ),
    "data.portrait": Key(
        False,
        "of images with objects: those that are taller than wide come in training batches of their own, with "
        "height and width of image_size changed over",
    ),
    "data.objects": Key(
        100, "most objects of a training image; of more, the largest", Within(1), limit=bounds.OBJECTS
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
        "after the warm-up: cosine; polynomial, (1 - x)^power to 0 in the last step; multistep, a "
        "tenth of it from each of `drops` on",
        OneOf(("cosine", "polynomial", "multistep")),
    ),
    "optimizer.final_learning_rate": Key(
        1e-6, "where the cosine ends, whatever batch_size is", Within(0), limit=FLOAT32
    ),
    "optimizer.power": Key(0.9, "of the polynomial", Positive(), limit=FLOAT32),
    "optimizer.drops": Key(
        (8 / 12, 11 / 12), "of multistep: shares of the run after which the rate falls", Shares()
    ),
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
    "loss.each_step": Key(
        False,
        "of a classifier without a teacher: the mean of the losses of all time steps (TET), not the loss of "
        "the mean of their logits",
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
    "detection.rpn_samples": Key(
        256, "anchors of an image that proposals are learned from", Within(2), limit=bounds.SAMPLES
    ),
    "detection.roi_samples": Key(
        512, "regions of an image that the heads are learned from", Within(4), limit=bounds.SAMPLES
    ),
    "detection.train_proposals": Key(
        (2000, 1000),
        "in training, boxes of a level before non-maximum suppression, and of an image after it",
        WholeNumbers(2),
        limit=bounds.SAMPLES,
    ),
    "detection.test_proposals": Key(
        (1000, 1000), "the same in evaluation", WholeNumbers(2), limit=bounds.SAMPLES
    ),
    "detection.score_threshold": Key(0.05, "detections have a higher probability", Share(with_one=False)),
    "detection.detections": Key(100, "of an image at most", Within(1), limit=bounds.SAMPLES),
    "parallel.mode": Key("jit", "jit: arrays cut over a mesh; pmap: the same program on each device"),
    "parallel.fsdp": Key(
        1, "with jit, devices that each large tensor of the state is cut over", limit=bounds.PROCESSES
    ),
    "distill.teacher": Key(
        "", "workdir of a network that teaches, or caformer_s18:FILE of timm (also s36, m36, b36)"
    ),
    "distill.dtype": Key("bfloat16", "operands of the teacher's products", OneOf(DTYPES)),
    "distill.labels": Key(1.0, "weight of the task's own loss beside a teacher", Within(0), limit=FLOAT32),
    "distill.fgd": Key(
        0.0, "weight of the distance between the Gram matrices of q, k and v", Within(0), limit=FLOAT32
    ),
    "distill.fgd_normalization": Key("frobenius", "of a Gram matrix", OneOf(("frobenius", "cosine"))),
    "distill.fgd_schedule": Key(
        "constant", "of that weight: constant, or cosine to 0 at the end", OneOf(("constant", "cosine"))
    ),
    "distill.kd": Key(
        0.0,
        "weight of the distance between the logits; as large as distill.labels for DeiT's alpha 0.5",
        Within(0),
        limit=FLOAT32,
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
