"""What a configuration came to, for whoever starts it: a table of the run as it was built."""

from collections.abc import Mapping
from typing import Any

import jax

from qsdt_jax.assemble.build import REFERENCE_BATCH, drops_of, warmup_of
from qsdt_jax.assemble.examples import ANNOTATED
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models.told import weights_told
from qsdt_jax.train.run import Run
from qsdt_jax.train.schedules import warmup_within


def recipe(run: Run) -> str:
    """The table of a run: lengths, rates and devices that it trains with, the rest as it is configured."""
    rows = {
        "network": _network(run.config["model"]),
        "data": _data(run),
        "augmentation": ", ".join(_augmentation(run.config["data"])) or "none",
        "devices": _devices(run),
        "batch": _batch(run),
        "length": _length(run),
        "learning rate": _learning_rate(run),
        "optimiser": _optimizer(run.config["optimizer"]),
        "loss": ", ".join(_loss(run)),
        "moving average": f"of {run.ema_decay:g}, evaluated beside the variables"
        if run.ema_decay
        else "none",
        "evaluation": f"of {_splits(run)} every {_steps(run.eval_every)}, "
        f"in batches of {run.config['eval']['batch_size']:,}",
        "checkpoints": f"after each evaluation and every {_steps(run.save_every)}; "
        f"the newest {run.keep_latest} and the best {run.keep_best} stay",
        "seed": str(run.seed),
    }
    if run.config["start_from"]:
        rows["starts from"] = run.config["start_from"]
    width = max(map(len, rows))
    return "\n".join(f"  {name:{width}}  {text}" for name, text in rows.items())


def _network(model: Mapping[str, Any]) -> str:
    rules = (BitsRule(pattern=pattern, bits=bits) for pattern, bits in model["bits_rules"])
    return (
        f"channels {', '.join(map(str, model['channels']))}, {model['depth']} blocks, "
        f"{weights_told(model['bits'], rules)}, "
        f"{model['neuron']}, D = {model['levels']}, T = {model['timesteps']}, {model['dtype']} products"
    )


def _data(run: Run) -> str:
    data = run.config["data"]
    shape = "x".join(map(str, (*data["image_size"], data["channels"])))
    kind = f"streams in frames of {shape}" if data["events"] else f"images at {shape}"
    place = f" {data['path']}" if data["path"] else ""
    names = run.task.class_names
    classes = "" if names is None else f", {len(names):,} classes"
    return f"{data['source']}{place}: {run.training_images:,} {kind}{_scaling(run.config)}{classes}"


def _scaling(config: Mapping[str, Any]) -> str:
    """How large images with annotations are shown."""
    short, long = config["data"]["short_side"], config["data"]["long_side"]
    if not short or task_factory(config["task"]["name"]).examples is not ANNOTATED:
        return ""
    return f", scaled to a short side of {short:,} or a long side of {long:,}"


def _augmentation(data: Mapping[str, Any]) -> list[str]:
    """What happens to the inputs; mixing comes last and on the device."""
    named = [] if data["augmentation"] == "none" else [data["augmentation"]]
    if data["events"]:
        named = [f"{name} by up to {data['roll']} pixels" for name in named]
        named.append(f"frames by {data['slicing']}")
    else:
        if data["augmentation"] == "crop_flip":
            area, aspect = (" to ".join(f"{x:.3g}" for x in data[k]) for k in ("crop_area", "crop_aspect"))
            named = [f"crop_flip (area {area}, aspect {aspect})"]
        if data["augmentation"] in ("resize_crop", "resize_crop_flip"):
            low, high = data["resize_ratio"]
            share = "" if data["largest_share"] == 1 else f", classes below {data['largest_share']:.3g}"
            named = [f"{data['augmentation']} (ratio {low:.3g} to {high:.3g}{share})"]
        if data["photometric"]:
            named.append("photometric distortion")
        if data["randaugment_magnitude"]:
            drawn, strength = data["randaugment_operations"], data["randaugment_magnitude"]
            named.append(f"{drawn} of RandAugment, {strength:g} / {data['randaugment_std']:g}")
        if data["erase_probability"]:
            named.append(f"random erasing {data['erase_probability']:g}")
    return named + [f"{name} {data[name]:g}" for name in ("mixup", "cutmix") if data[name]]


def _devices(run: Run) -> str:
    """Always told: a run on fewer devices than were paid for looks like any other."""
    processes, devices = jax.process_count(), run.parallel.devices
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    return (
        f"{processes:,} process{'es' * (processes > 1)}, "
        f"{len(devices):,} device{'s' * (len(devices) > 1)} ({kinds})"
    )


def _batch(run: Run) -> str:
    devices = len(run.parallel.devices)
    parts = [f"{run.batch_size:,} images a step"]
    if devices > 1:
        parts.append(f"{run.batch_size // devices:,} on each device ({run.parallel.mode})")
    if run.accumulate > 1:
        parts.append(f"in {run.accumulate} parts of {run.batch_size // run.accumulate:,}")
    group = run.config["model"]["norm_group"]
    parts.append(f"batch-norm statistics of {f'{group:,} images' if group else 'the whole'}")
    return ", ".join(parts)


def _length(run: Run) -> str:
    epoch = run.training_images // run.batch_size
    return f"{run.total_steps / epoch:.4g} epochs of {_steps(epoch)}: {_steps(run.total_steps)}"


def _learning_rate(run: Run) -> str:
    optimizer, rates = run.config["optimizer"], run.learning_rates()
    asked = warmup_of(optimizer, run.training_images // run.batch_size)
    warmup = warmup_within(asked, run.total_steps)
    said = f"after {_steps(warmup)} of warm-up" if warmup else "without warm-up"
    if warmup < round(min(asked, run.total_steps)):
        key = "warmup_steps" if optimizer["warmup_steps"] else "warmup_epochs"
        said += f" (half of this run, which is too short for {key}={optimizer[key]:g})"
    drops = " and ".join(f"{step:,}" for step in drops_of(optimizer, run.total_steps))
    falling = {
        "cosine": "half a cosine",
        "polynomial": f"(1 - x)^{optimizer['power']:g}",
        "multistep": f"a tenth each after {drops} steps",
    }[optimizer["schedule"]]
    rules = "".join(f"; times {factor:g} for `{pattern}`" for pattern, factor in optimizer["rate_rules"])
    return (
        f"{optimizer['learning_rate']:g} x {run.batch_size:,} / {REFERENCE_BATCH} = {rates.max():.4g} "
        f"at its peak, {said}; {falling} to {rates[-1]:.3g} in the last step{rules}"
    )


def _splits(run: Run) -> str:
    first, *others = run.evaluation_data
    return f"{first}, which decides what is best, and {', '.join(others)}" if others else first


def _optimizer(optimizer: Mapping[str, Any]) -> str:
    clip = optimizer["clip_norm"]
    decayed = "all tensors" if optimizer["decay_vectors"] else "tensors of two or more axes"
    return f"{optimizer['name']}, weight decay {optimizer['weight_decay']:g} on {decayed}, " + (
        f"gradient norm clipped to {clip:g}" if clip else "gradients not clipped"
    )


def _loss(run: Run) -> list[str]:
    config, named = run.config, [run.task.loss_title]
    if config["model"]["drop_path"]:
        named.append(f"drop path {config['model']['drop_path']:g}")
    distill = config["distill"]
    if distill["teacher"]:
        named += [f"{name} {distill[name]:g}" for name in ("fgd", "kd") if distill[name]]
        named.append(f"taught by {distill['teacher']}")
    return named


def _steps(number: int) -> str:
    return f"{number:,} step" + "s" * (number != 1)
