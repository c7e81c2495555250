"""A tiny network for the digits with drawn weights, in a workdir or in a PyTorch file."""

import functools
import importlib
import json
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import flagsaver
from ml_collections import ConfigDict

from configs.digits import get_config
from launch.__main__ import VERBS, main
from qsdt_jax.assemble.build import build_optimizer
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.classes import numbers
from qsdt_jax.interop import to_torch
from qsdt_jax.tasks.task import variable_shapes
from qsdt_jax.train.state import TrainState, create_state
from qsdt_jax.workdir.checkpoint import Checkpointer
from tests.interop.test_torch_file import opcodes, tensor

DIGITS = tuple("0123456789")


def tiny_config(**overrides) -> ConfigDict:
    """The digits with a net that compiles fast; the last of its evaluation batches is not full."""
    config = get_config()
    config.model.channels = (8, 8, 16, 16)
    config.model.depth = 2
    config.model.num_heads = 4
    config.eval.batch_size = 100
    config.ema_decay = 0.9
    config.update_from_flattened_dict(overrides)
    return config


def resformer_config(**overrides) -> ConfigDict:
    """The digits with a SpikingResformer that compiles fast."""
    config = tiny_config()
    config.model.update(base_config().model.to_dict())
    config.resformer.channels = (8, 8, 16)
    config.resformer.num_heads = (1, 1, 2)
    config.resformer.depths = (1, 1, 1)
    config.resformer.group_size = 8
    config.resformer.small_images = True
    config.update_from_flattened_dict(overrides)
    return config


def draw_variables(config: ConfigDict, seed: int, classes: int = 10) -> dict:
    """Variables of a size that lets spikes through, so that the classes of the images differ."""
    return draw(_shapes(config.model.to_json(), classes), seed)


def draw(shapes: dict, seed: int) -> dict:
    """Variables of these shapes, see `draw_variables`."""
    generator = np.random.default_rng(seed)

    def leaf(path, shape):
        name = path[-1].key
        if name in ("step_size", "var", "scale"):
            low, high = (0.05, 0.2) if name == "step_size" else (0.5, 1.5)
            return generator.uniform(low, high, shape.shape).astype(shape.dtype)
        return generator.normal(0, 0.4, shape.shape).astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def _shapes(model: str, classes: int) -> dict:
    config = tiny_config()
    config.model.update(json.loads(model))
    task = build_task(config, numbers(classes))
    return variable_shapes(task)


def write_workdir(workdir: Path, config: ConfigDict, states: dict[int, TrainState]) -> Path:
    """The workdir of a run that was stopped after the last of these steps."""
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    write_data(workdir, tuple(config.data.classes) or DIGITS)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        for step, state in states.items():
            checkpointer.save(step, state.replace(step=jnp.int32(step)))
    return workdir


def write_data(workdir: Path, class_names: tuple[str, ...] | None) -> None:
    """What a workdir says of its classes; that it says nothing of its images lets it be trained on."""
    (workdir / "data.json").write_text(json.dumps({"class_names": class_names, "training_images": None}))


def make_state(config: ConfigDict, variables: dict, ema: dict | None = None) -> TrainState:
    """A state with these variables."""
    optimizer = build_optimizer(config, optax.constant_schedule(0.1))
    shapes = jax.eval_shape(lambda: create_state(variables, optimizer, ema=False))
    # Moments begin at 0; one array after the other JAX would compile a program for each shape.
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return state.replace(variables=variables, ema=ema)


def write_pth(file: Path, variables: dict, *, without: str | Container[str] = ()) -> Path:
    """The file that `torch.save` makes of these variables, but for tensors of some names."""
    left_out = (without,) if isinstance(without, str) else without
    arrays = {name: array for name, array in to_torch(variables).items() if name not in left_out}
    return write_arrays(file, arrays)


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray], entry: str = "model") -> Path:
    """The file that `torch.save` makes of {entry: arrays}."""
    content = {}
    with zipfile.ZipFile(file, "w") as archive:
        for key, (name, array) in enumerate(arrays.items()):
            strides = tuple(stride // array.itemsize for stride in array.strides)
            content[name] = tensor(array.shape, strides, 0, array.size, str(key))
            archive.writestr(f"made/data/{key}", np.ascontiguousarray(array, "<f4").tobytes())
        pickled = b"\x80\x02" + opcodes({entry: content}) + b"."
        archive.writestr("made/data.pkl", pickled)
    return file


def launch(*arguments: object) -> int:
    """`python -m launch ...` in this process: its exit status."""
    words = [str(argument) for argument in arguments]
    verb = words[0] if words and not words[0].startswith("-") else "train"
    if verb in VERBS:
        # Here, because the saver forgets flags that are defined in it; grain, which defines some, comes late.
        importlib.import_module(VERBS[verb])
        importlib.import_module("grain")
    # The overrides of a config are looked up in sys.argv.
    with flagsaver.flagsaver(), mock.patch("sys.argv", ["launch", *words]):
        return main(words)
