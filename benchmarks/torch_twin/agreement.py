"""Whether the twin computes what our network computes: logits, loss, gradients and statistics in float64."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from torch.nn import functional as F

from benchmarks.torch_twin.network import COUNTER, Twin
from qsdt_jax.errors import UserError
from qsdt_jax.interop import to_torch
from qsdt_jax.models import Classifier
from qsdt_jax.models.shapes import variable_shapes
from qsdt_jax.tasks.classification import Classification

TOLERANCE = 1e-9  # Relative to the largest entry of an array, and of that a part to the largest of all.
SMALLEST_SCALE = 1e-3  # The gradient of a bias before a batch norm is 0: both have noise there.
IMAGES, SIDE, DEPTH = 2, 64, 2  # The blocks of a stage are alike.

Arrays = dict[str, np.ndarray]


def twin_of(model: Classifier) -> Twin:
    """The twin, with initial weights of its own.

    Raises:
      UserError: the network has something that the twin lacks.
    """
    backbone = model.backbone
    needed = {
        "neuron": "ie_lif",
        "timesteps": 1,
        "surrogate": "straight_through",
        "rectify": "bn",
        "attention": "spiking",
        "bits_rules": (),
        "attention_tokens": 0,
        "attention_gain": 2.0,
        "attention_threshold": None,
        "qkv_bias_init": 0.0,
        "decay_input": False,
        "layer_scale": True,
        "drop_path": 0.0,
        "norm_group": 0,
        "freeze_statistics": False,
    }
    for name, value in needed.items():
        if getattr(backbone, name) != value:
            raise UserError(f"the PyTorch twin has {name}={value!r} alone, found {getattr(backbone, name)!r}")
    if not 2 <= backbone.bits <= 8 or model.distillation_head:
        raise UserError("the PyTorch twin has 2 to 8 bits and one head")
    names = "channels", "depth", "num_heads", "mlp_ratio", "in_channels", "bits", "levels", "attention_scale"
    return Twin(**{name: getattr(backbone, name) for name in names}, num_classes=model.num_classes)


def require_equal(task: Classification) -> float:
    """Compares both networks, of two blocks, on drawn weights and small images, on the CPU.

    Returns:
      The largest deviation of any array, relative to its largest entry.

    Raises:
      UserError: an array differs by more than `TOLERANCE`.
    """
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        backbone = task.model.backbone.clone(
            depth=DEPTH, dtype=jnp.float64, param_dtype=jnp.float64, exact_evaluation=False
        )
        model = task.model.clone(backbone=backbone)
        task = dataclasses.replace(task, model=model, image_shape=(SIDE, SIDE, backbone.in_channels))
        generator = np.random.default_rng(0)
        variables = drawn_variables(model, generator)
        batch = {
            "image": generator.standard_normal((IMAGES, *task.image_shape)),
            "label": generator.integers(0, model.num_classes, IMAGES),
        }
        ours = _of_ours(task, variables, batch)
    deviation, name = largest_deviation(ours, _of_twin(task, to_torch(variables), batch))
    if not deviation <= TOLERANCE:
        raise UserError(f"the PyTorch twin differs from the network in {name} by {deviation:.1e}: not timed")
    return deviation


def largest_deviation(ours: Mapping[str, np.ndarray], its: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """That of all arrays, relative to the largest entry of its array; and the name of that array."""
    if ours.keys() != its.keys():
        raise UserError(f"the PyTorch twin has other tensors: {sorted(ours.keys() ^ its.keys())[:3]}")
    largest = max(np.abs(array).max() for name, array in ours.items() if name.startswith("gradient"))
    found = {}
    for name, array in ours.items():
        scale = np.abs(array).max()
        if name.startswith("gradient"):
            scale = max(scale, SMALLEST_SCALE * largest)
        found[name] = float(np.abs(array - its[name]).max() / scale)
    worst = max(found, key=lambda name: np.nan_to_num(found[name], nan=np.inf))
    return found[worst], worst


def drawn_variables(model: Classifier, generator: np.random.Generator) -> Any:
    """Variables of the size of trained ones; no two entries alike, so that a mix-up shows."""
    shapes = flatten_dict(variable_shapes(model))
    ranges = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "layer_scale1": (0.1, 1.0), "layer_scale2": (0.1, 1.0)}

    def draw(path: tuple[str, ...]) -> np.ndarray:
        *layer, name = path
        if name not in ("kernel", "step_size"):
            return generator.uniform(*ranges.get(name, (-0.5, 0.5)), shapes[path].shape)
        spread = (2 / np.prod(shapes[(*layer, "kernel")].shape[:-1])) ** 0.5
        if name == "kernel":
            return generator.normal(0, spread, shapes[path].shape)
        return generator.uniform(2, 3, shapes[path].shape) * spread / 2 ** (model.backbone.bits - 1)

    return unflatten_dict({path: draw(path).astype(leaf.dtype) for path, leaf in shapes.items()})


def _of_ours(task: Classification, variables: Any, batch: Mapping[str, Any]) -> Arrays:
    def run(variables, batch):
        def loss(params):
            value, (statistics, _) = task.loss({**variables, "params": params}, batch, jax.random.key(0))
            return value, statistics

        logits = task.model.apply(variables, batch["image"])
        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return logits, value, statistics, grads

    quickly_compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    logits, value, statistics, grads = jax.device_get(quickly_compiled(variables, batch))
    # Both together, since the names depend on all of them.
    tensors = to_torch({"params": grads, "batch_stats": statistics})
    return {"logits": logits, "loss": value, **{_label(name): array for name, array in tensors.items()}}


def _of_twin(task: Classification, arrays: Mapping[str, np.ndarray], batch: Mapping[str, Any]) -> Arrays:
    twin = twin_of(task.model).double()
    twin.load_arrays(arrays)
    images, labels = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2), torch.from_numpy(batch["label"])
    with torch.no_grad():
        logits = twin.eval()(images)
    loss = F.cross_entropy(twin.train()(images), labels, label_smoothing=task.label_smoothing)
    loss.backward()
    tensors = {name: p.grad for name, p in twin.named_parameters()}
    tensors |= {name: value for name, value in twin.named_buffers() if not name.endswith(COUNTER)}
    found = {_label(name): value.numpy().reshape(arrays[name].shape) for name, value in tensors.items()}
    return {"logits": logits.numpy(), "loss": loss.detach().numpy(), **found}


def _label(name: str) -> str:
    return name if "running_" in name else f"gradient of {name}"
