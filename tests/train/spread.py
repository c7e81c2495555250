"""A small net trained over forced host devices in every way there is; `python -m tests.train.spread FILE`.

A process of its own, because the number of devices is fixed before the first of them is used.
"""

import functools
import itertools
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.data.augment import draw_erasing
from qsdt_jax.data.classes import numbers
from qsdt_jax.data.images import normalize
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.data.pipeline import evaluation_batches, training_batches
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.data.sources import Example, FakeSource
from qsdt_jax.evaluate.split import Scored, evaluate_split
from qsdt_jax.layers.downsample import Downsample
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QDense
from qsdt_jax.layers.repconv import RepConv
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.transformer_block import DropPath
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.train.optimizer import lamb
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.step import evaluation_step, initial_state, train_step
from qsdt_jax.workdir.integrity import host_leaves

DEVICES, BATCH, STEPS, CLASSES = 8, 32, 5, 6
PREPROCESS = Preprocess(size=(8, 8), mean=(0.5,), std=(0.25,), augmentation="crop_flip")
SPLIT = 21  # Images to evaluate: less than three batches of 8, the last of which leaves devices without any.


class Net(nn.Module):
    """What a row can have to do with other rows: batch norm, its border, drop path."""

    norm_group: int = 0
    drop_path: float = 0.3
    num_classes: int = CLASSES
    dtype: Any = jnp.float64

    @nn.compact
    def __call__(self, images, train: bool = False):
        numerics = Numerics(
            neuron=make_neuron(), dtype=self.dtype, param_dtype=self.dtype, norm_group=self.norm_group
        )
        x = Downsample(8, numerics, kernel_size=3, padding=1, spiking=False)(
            images.astype(self.dtype), train=train
        )
        y = RepConv(numerics)(SpikingNeuron(numerics)(x), train).real
        x = x + DropPath(self.drop_path)(y, train=train)
        spikes = SpikingNeuron(numerics)(jnp.mean(x, (1, 2)))
        return QDense(self.num_classes, numerics)(spikes, train).real


@jax.tree_util.register_static
class Shaken(Classification):
    """Starts with random biases: a channel that is the same in a whole group of images would else lie exactly
    on the edge of the surrogate gradient, where rounding decides."""

    def init(self, key):
        def shake(path, leaf):
            return leaf + (
                0.1 * jax.random.normal(key, leaf.shape, leaf.dtype) if path[-1].key == "bias" else 0
            )

        return jax.tree_util.tree_map_with_path(shake, super().init(key))


@jax.tree_util.register_static
class Gathering(Shaken):
    """Tells the logits of the split as well, without padding."""

    def score(self, outputs, batch):
        return Scored(super().score(outputs, batch).sums, rows={"logits": outputs})

    def summarize(self, total, truth) -> dict[str, Any]:
        return {**super().summarize(total, truth), "gathered": total.rows["logits"]}


def task(norm_group: int = 0, dtype: Any = jnp.float64, drawn: bool = True) -> Classification:
    """With drop path and mixing, or without all that is drawn for each (micro-)batch."""
    model: Any = Net(norm_group, drop_path=0.3 if drawn else 0.0, dtype=dtype)
    mixing = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0} if drawn else {}
    return Shaken(
        model=model, image_shape=(8, 8, 1), class_names=numbers(CLASSES), label_smoothing=0.1, **mixing
    )


def inputs(image: np.ndarray) -> np.ndarray:
    """What the network takes of bytes (B, H, W, C), in 64 bits."""
    rows = [normalize(pixels, PREPROCESS.mean, PREPROCESS.std) for pixels in image]
    return np.stack(rows).astype(np.float64)


def trained(
    parallel: Parallel,
    optimizer: optax.GradientTransformation,
    *,
    norm_group: int = 0,
    accumulate: int = 1,
    drawn: bool = True,
    flat: bool = False,
) -> dict[str, np.ndarray]:
    """All of the state after some steps, and the metrics of the last."""
    learned = task(norm_group, drawn=drawn)
    create = functools.partial(initial_state, learned, optimizer, ema=True)

    def step(state, batch, task, seed):
        return train_step(
            state,
            batch,
            task=task,
            optimizer=optimizer,
            seed=seed,
            accumulate=accumulate,
            shards=parallel.shards_in_step,
            ema_decay=0.9,
            flat=flat,
        )

    state = parallel.jit_initial(create)()
    update = parallel.train_step(step, state)
    arguments = learned, np.int32(0)
    batches = training_batches(
        FakeSource(100, (12, 12, 1), CLASSES),
        PREPROCESS.train,
        seed=3,
        batch_size=BATCH,
        rows=parallel.rows(BATCH, accumulate),
    )
    for batch in itertools.islice(batches, STEPS):
        # The images too in float64: mixing happens in their type.
        placed = parallel.place({**batch, "image": inputs(batch["image"])})
        state, metrics = update(state, placed, *arguments)
    specs = {leaf.sharding.spec for leaf in jax.tree.leaves(state.variables["params"])}
    assert (len(specs) > 1) == (parallel.fsdp > 1), specs
    return host_leaves(state) | {f"metric/{name}": np.asarray(value) for name, value in metrics.items()}


def erased(example: Example) -> Example:
    """What evaluation sees of an example, a box of it erased on the device."""
    generator = np.random.default_rng(int(example["image"].sum()))
    return {**PREPROCESS.evaluate(example), **draw_erasing(generator, PREPROCESS.size, probability=0.7)}


def evaluated(parallel: Parallel, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Metrics of a split, and the logits of its images."""
    classification = Gathering(**vars(task(dtype=dtype)))
    variables = parallel.jit_initial(lambda: classification.init(jax.random.key(0)))()
    step = parallel.evaluation_step(
        functools.partial(evaluation_step, normalization=PREPROCESS.normalization)
    )

    def scores(variables, batch):
        return classification.model.apply(variables, to_inputs(batch, PREPROCESS.normalization)["image"])

    spread = jax.pmap(scores, in_axes=(None, 0)) if parallel.mode == "pmap" else jax.jit(scores)
    size = parallel.evaluation_batch_size(5)
    batches = list(
        map(
            parallel.place,
            evaluation_batches(
                FakeSource(SPLIT, (12, 12, 1), CLASSES),
                erased,
                batch_size=size,
                rows=parallel.rows(size),
            ),
        )
    )
    metrics = evaluate_split(
        lambda batch: step(variables, batch, classification),
        batches,
        lambda total: classification.summarize(total, None),
    )
    logits = [np.asarray(spread(variables, batch)).reshape(size, -1) for batch in batches]
    return {**metrics, "logits": np.concatenate(logits)[:SPLIT]}


def main(file: str) -> None:
    everyone = jax.devices()
    ways = {
        "one": Parallel(devices=tuple(everyone[:1])),
        "jit": Parallel(),
        "fsdp": Parallel(fsdp=4, smallest_cut=32),
        "pmap": Parallel(mode="pmap"),
    }
    found = {}
    for name, way in ways.items():
        flat = name in ("jit", "pmap")  # As on GPUs; on one device and with fsdp tensor by tensor.
        found[f"global/{name}"] = trained(way, lamb(0.05), flat=flat)
        if name != "fsdp":
            # The images of one device in one micro-batch have their own statistics.
            own = BATCH // DEVICES // 2
            found[f"device/{name}"] = trained(way, optax.sgd(0.05), norm_group=own, accumulate=2, flat=flat)
    three = Parallel(devices=tuple(everyone[:3]))
    for name, way in {"one": ways["one"], "pmap": ways["pmap"], "three": three}.items():
        found[f"evaluation/{name}"] = evaluated(way)
    flat = {f"{case}:{name}": value for case, values in found.items() for name, value in values.items()}
    np.savez(file, **flat)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # Of the compiler: it is quicker.
    main(sys.argv[1])
