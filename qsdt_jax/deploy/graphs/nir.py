"""What the Neuromorphic Intermediate Representation can say of a program, as an HDF5 file.

A graph of nodes (`neuroir.org`), maps (C, H, W); edges that end in one node are added up. In the file, under
"node": "type", "edges" and "nodes", a group for each node with its type and parameters. Of a program:

    Linear      Conv2d of the whole weights, called NAME.product; then Conv2d of 1x1, called NAME, with the
                scales on its diagonal and the shifts as its bias. So both are exact, as in the bundle.
    Fire        D nodes Threshold, NAME.slot0 to NAME.slot{D-1}: binary spikes of the D virtual time steps
                (`deploy.spike_driven`) side by side, each of which all readers of the counts add up.
    Add, Pool   Scale by 1; AvgPool2d.

A slash in a name becomes a dot, since HDF5 takes a slash for a folder. Kernels have their zeros and no
groups: the package nir (1.0.8) takes the input of a Conv2d with groups for as narrow as its kernel, and
refuses it.

NIR's integrate-and-fire neuron is none of ours. It is reset to one value whatever its potential was, so what
is left after a spike, from which the other spikes of a count come, is lost; and its time is continuous. A
Threshold has no memory. Neurons whose membrane lives through several time steps are refused, and so are
attention, in which spikes are multiplied with each other, and maps that grow.

NIR says equations, not roundings. A reader in float32 gets the spikes of the bundle bit for bit as far as it
adds real values exactly (`deploy.program.Linear.spikes` says which layers take them).
"""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import run_step, shapes_of
from qsdt_jax.deploy.program import IMAGES, Add, Attend, Fire, Linear, Pool, Program, Step, inputs_of
from qsdt_jax.errors import UserError
from qsdt_jax.nearest import nearest

VERSION = "1.0.8"  # Of the package nir, whose layout this is.
INPUT, OUTPUT = "input", "output"

Node = dict[str, Any]


def export_nir(
    program: Program,
    image_size: tuple[int, int],
    *,
    until: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The HDF5 file of a program whose neurons have no memory, for images (C, H, W), normalised.

    Args:
      program: a folded network.
      image_size: (height, width) in pixels, multiples of 16.
      until: name of the step whose value the graph gives; None for the program's output, not yet averaged
        over time.
      metadata: texts by name that are stored with the graph.

    Raises:
      UserError: the package h5py is not installed, there is no step of that name, or NIR has no node for a
        step; the first of them is named.
    """
    try:
        import h5py
    except ImportError:
        raise UserError("NIR export needs the package h5py; pip install h5py") from None
    nodes, edges = _graph(_steps_until(program, until), image_size)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        text = h5py.string_dtype()
        file.create_dataset("version", data=VERSION, dtype=text)
        graph = file.create_group("node")
        graph.create_dataset("type", data="NIRGraph", dtype=text)
        graph.create_dataset("edges", data=np.array(edges, object), dtype=text)
        if metadata:
            _write(graph.create_group("metadata"), metadata, text)
        for name, node in nodes.items():
            _write(graph.create_group(f"nodes/{name}"), node, text)
    return buffer.getvalue()


def _write(group: Any, values: Mapping[str, Any], text: Any) -> None:
    for name, value in values.items():
        if isinstance(value, str):
            group.create_dataset(name, data=value, dtype=text)
        else:
            packed = {"compression": "gzip"} if np.size(value) > 64 else {}
            group.create_dataset(name, data=value, **packed)


def _steps_until(program: Program, until: str | None) -> Program:
    """The steps that one value needs, which is the only output."""
    outputs = dict(program.outputs)
    value = next(iter(outputs.values())) if until is None else until
    steps = {step.name: step for step in program.steps}
    if value not in steps:
        meant = nearest(value, steps) or f"; expected one like {program.steps[0].name}"
        raise UserError(f"the network has no step {value}{meant}")
    needed = {value}
    for step in reversed(program.steps):
        if step.name in needed:
            needed.update(inputs_of(step))
    kept = tuple(step for step in program.steps if step.name in needed)
    return program.replace(steps=kept, outputs=((OUTPUT, value),))


def _graph(program: Program, image_size: tuple[int, int]) -> tuple[dict[str, Node], list[tuple[str, str]]]:
    """Nodes by name, and edges."""
    for before, step in zip((None, *program.steps), program.steps, strict=False):
        if reason := _beyond(step, program):
            last = f"; what comes before it, up to {before.name}, has one" if before else ""
            raise UserError(f"{step.name} {reason}, for which NIR has no node{last}")
    shapes = shapes_of(program, image_size, IntegerArithmetic())
    sizes = {name: (shape.shape[3], *shape.shape[1:3]) for name, shape in shapes.items()}
    nodes: dict[str, Node] = {INPUT: {"type": "Input", "shape": np.array(sizes[IMAGES])}}
    edges: list[tuple[str, str]] = []
    sources = {IMAGES: [INPUT]}  # The nodes whose sum is a value.

    def add(name: str, node: Node, inputs: list[str]) -> str:
        nodes[name] = node
        edges.extend((before, name) for before in inputs)
        return name

    for step in program.steps:
        name, size = step.name.replace("/", "."), sizes[step.name]
        inputs = [source for value in inputs_of(step) for source in sources[value]]
        match step:
            case Linear():
                product = add(f"{name}.product", _product(step, sizes[step.input]), inputs)
                sources[step.name] = [add(name, _affine(step, size), [product])]
            case Fire():
                thresholds = _thresholds(step, program)
                slots = [{"type": "Threshold", "threshold": np.full(size, t)} for t in thresholds]
                names = [add(f"{name}.slot{d}", slot, inputs) for d, slot in enumerate(slots)]
                sources[step.name] = names
            case Add():
                node = {"type": "Scale", "scale": np.ones(size, np.float32)}
                sources[step.name] = [add(name, node, inputs)]
            case Pool():
                pixels, none = np.array(sizes[step.input][1:]), np.zeros(2, np.int64)
                node = {"type": "AvgPool2d", "kernel_size": pixels, "stride": pixels, "padding": none}
                sources[step.name] = [add(name, node, inputs)]
    [(_, value)] = program.outputs
    add(OUTPUT, {"type": "Output", "shape": np.array(sizes[value])}, sources[value])
    return nodes, edges


def _beyond(step: Step, program: Program) -> str:
    """What a step does that NIR cannot say; empty where it can."""
    neuron = program.neuron
    match step:
        case Fire() if neuron.timesteps > 1 and neuron.decay:
            return f"keeps a membrane through {neuron.timesteps} time steps, which its spikes lower"
        case Linear() | Fire() | Add() | Pool():
            return ""
        case Attend():
            return "is attention, which multiplies spikes with spikes"
        case _:
            return "changes the size of a map"


def _product(layer: Linear, size: tuple[int, ...]) -> Node:
    """The whole weights (O, I, kh, kw), zeros between groups included, without scale and shift."""
    weights = np.asarray(layer.weights, np.float32).transpose(3, 2, 0, 1)
    outputs, width = weights.shape[:2]
    groups = layer.geometry.groups
    dense = np.zeros((outputs, groups * width, *weights.shape[2:]), np.float32)
    for i, kernel in enumerate(weights):
        first = i // (outputs // groups) * width
        dense[i, first : first + width] = kernel
    return _convolution(dense, np.zeros(outputs), size[1:], layer.geometry.stride, layer.geometry.padding)


def _affine(layer: Linear, size: tuple[int, ...]) -> Node:
    """Scale and shift of each channel."""
    return _convolution(np.diag(np.asarray(layer.scale))[..., None, None], layer.shift, size[1:])


def _convolution(weight: np.ndarray, bias: Any, pixels: Any, stride: int = 1, padding: int = 0) -> Node:
    return {
        "type": "Conv2d",
        "input_shape": np.array(pixels),
        "weight": weight,
        "stride": np.array([stride, stride]),
        "padding": np.array([padding, padding]),
        "dilation": np.ones(2, np.int64),
        "groups": 1,
        "bias": np.asarray(bias, np.float32),
    }


def _thresholds(step: Fire, program: Program) -> np.ndarray:
    """(D,) float32: more than the d-th of these, and only that, is a potential of more than d spikes."""
    neuron = program.neuron
    single = program.replace(neuron=dataclasses.replace(neuron, timesteps=1))

    def counts(potentials: np.ndarray) -> np.ndarray:
        values = {step.input: jnp.asarray(potentials)[:, None, None, None]}
        return np.asarray(run_step(step, values, single, IntegerArithmetic(), None)).reshape(-1)

    spikes = np.arange(neuron.levels)
    found = ((spikes + neuron.threshold) / neuron.scale / step.input_gain).astype(np.float32)
    below, above = np.float32(-np.inf), np.float32(np.inf)
    while np.any(fired := counts(found) > spikes):
        found = np.where(fired, np.nextafter(found, below), found)
    while np.any(silent := counts(following := np.nextafter(found, above)) <= spikes):
        found = np.where(silent, following, found)
    return found
