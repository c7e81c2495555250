"""Whether the forms of a network are the same network: every spike count and every output, on real images.

A form is a function from images, and where they are padded their sizes (B, 2), to outputs (B, ...) by name,
and spike counts of each neuron by its name. Counts have the time steps of an image next to each other:
(B * T, ...).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from qsdt_jax.deploy import reference
from qsdt_jax.deploy.detector import FoldedDetector, networks_of_detector
from qsdt_jax.deploy.interpreter import Arithmetic, class_scores, interpret, steps_of_outputs
from qsdt_jax.deploy.program import LOGITS, Fire, Program
from qsdt_jax.detection.inference import Networks, Settings, compiled, find_objects
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.models import Classifier, MaskRCNN, Segmenter, SpikingResformer
from qsdt_jax.models.detector import networks_of

Form = Callable[..., tuple[dict[str, Any], dict[str, Any]]]

# What a detector gives, see `detection.inference.find_objects`, in words.
OBJECTS = {
    "boxes": "coordinates of boxes",
    "score": "scores",
    "category": "categories",
    "mask": "mask probabilities",
}
CALL = ", call "  # Between the name of a neuron that is called more than once and the number of the call.


@dataclasses.dataclass
class Comparison:
    """What a form gave other than the first one.

    Attributes:
      counts: how many were compared.
      outputs: likewise, of each output by its name.
      different_counts: of each neuron, where there are any.
      different_outputs: of each output, where there are any.
    """

    counts: int = 0
    outputs: dict[str, int] = dataclasses.field(default_factory=dict)
    different_counts: dict[str, int] = dataclasses.field(default_factory=dict)
    different_outputs: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def differs(self) -> bool:
        return bool(self.different_counts or self.different_outputs)


def training_form(model: Classifier | Segmenter | SpikingResformer, variables: Mapping[str, Any]) -> Form:
    """The network as it is trained, in evaluation."""
    return functools.partial(jax.jit(functools.partial(_in_evaluation, model)), variables)


def firing_order(
    model: Classifier | Segmenter | SpikingResformer, variables: Mapping[str, Any], *inputs
) -> list[str]:
    """The neurons of a network in the order in which they fire; nothing is computed.

    What is compiled gives its counts in the order of their names.
    """
    names: list[str] = []

    def traced(variables, *inputs):
        names.extend(_in_evaluation(model, variables, *inputs)[1])

    jax.eval_shape(traced, variables, *inputs)
    return names


def _in_evaluation(model: Classifier | Segmenter | SpikingResformer, variables, images, *sizes):
    logits, state = model.apply(
        variables,
        images,
        False,
        *sizes,
        capture_intermediates=lambda module, _: isinstance(module, SpikingNeuron),
        mutable=["intermediates"],
    )
    spikes: Any = flatten_dict(state["intermediates"])
    return {LOGITS: logits}, {"/".join(path[:-1]): value[0].counts for path, value in spikes.items()}


def deployed_form(program: Program, arithmetic: Arithmetic) -> Form:
    """A folded network in the integer or the spike-driven form."""

    @jax.jit
    def forward(program, images, *sizes):
        values = interpret(program, images, arithmetic, *sizes)
        counts = {step.name: values[step.name] for step in program.steps if isinstance(step, Fire)}
        return {LOGITS: class_scores(program, values)}, counts

    return functools.partial(forward, program)


def detector_training_form(model: MaskRCNN, variables: Mapping[str, Any], settings: Settings) -> Form:
    """A detector as it is trained, in evaluation; its networks are compiled one by one, as in other forms."""

    def form(images, sizes):
        counts: dict[str, list[Any]] = {}

        def recorded(method: str, *inputs, **sizes):
            found, spikes = _with_spikes(model, method, variables, *inputs, **sizes)
            counts.update(spikes)
            return found

        return _found(networks_of(recorded), settings, images, sizes), _by_call(counts)

    return form


@functools.partial(jax.jit, static_argnums=(0, 1))
def _with_spikes(model: MaskRCNN, method: str, variables, *inputs, **sizes):
    found, state = model.apply(
        variables,
        *inputs,
        method=method,
        capture_intermediates=lambda module, _: isinstance(module, SpikingNeuron),
        mutable=["intermediates"],
        **sizes,
    )
    spikes: Any = flatten_dict(state["intermediates"])
    return found, {"/".join(path[:-1]): [x.counts for x in value] for path, value in spikes.items()}


def detector_form(detector: FoldedDetector, arithmetic: Arithmetic, settings: Settings) -> Form:
    """A folded detector in the integer or the spike-driven form."""

    def form(images, sizes):
        counts: dict[str, list[Any]] = {}

        def recorded(program, *inputs):
            outputs, spikes = _with_counts(arithmetic, program, *inputs)
            for name, c in spikes.items():
                counts.setdefault(name, []).append(c)
            return outputs

        return _found(networks_of_detector(detector, recorded), settings, images, sizes), _by_call(counts)

    return form


@functools.partial(jax.jit, static_argnums=0)
def _with_counts(arithmetic: Arithmetic, program: Program, *inputs):
    values = interpret(program, inputs[0], arithmetic, *inputs[1:])
    counts = {step.name: values[step.name] for step in program.steps if isinstance(step, Fire)}
    return steps_of_outputs(program, values), counts


def _found(networks: Networks, settings: Settings, images: jax.Array, sizes: jax.Array) -> dict[str, Any]:
    """The objects that networks find, by what their numbers are called in words."""
    found = find_objects(networks, settings, images, sizes, compiled)
    return {words: found[name] for name, words in OBJECTS.items()}


def _by_call(counts: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Counts of each call of a neuron, with the number of the call where there is more than one."""
    return {
        f"{name}{CALL}{i}" if len(calls) > 1 else name: c
        for name, calls in counts.items()
        for i, c in enumerate(calls)
    }


def reader_form(manifest: reference.Manifest) -> Form:
    """A bundle as `reference.read` gives it, by NumPy alone."""

    def forward(*inputs):
        values = reference.run(manifest, *map(np.asarray, inputs))
        names = [step["name"] for step in manifest["steps"] if step["kind"] == "fire"]
        return {LOGITS: reference.class_scores(manifest, values)}, {name: values[name] for name in names}

    return forward


def compare(forms: Mapping[str, Form], batches: Iterable[Mapping[str, Any]]) -> dict[str, Comparison]:
    """Each form but the first, compared with it.

    Args:
      forms: by name; two at least.
      batches: {"image": (B, ...), "mask": (B,)}, with padded images "size" (B, 2) too; rows whose mask is 0
        are padding.
    """
    first, *others = forms
    found = {name: Comparison() for name in others}
    for batch in batches:
        rows = np.asarray(batch["mask"]) > 0
        expected = _of_images(forms[first], batch, rows)
        for name, comparison in found.items():
            outputs, counts = _of_images(forms[name], batch, rows)
            _add(comparison.outputs, _sizes(expected[0]))
            _add(comparison.different_outputs, _differences(expected[0], outputs))
            comparison.counts += sum(_sizes(expected[1]).values())
            _add(comparison.different_counts, _differences(expected[1], counts))
    return found


def _sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: array.size for name, array in arrays.items()}


def _differences(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many numbers differ, where any do."""
    numbers = {name: int(np.sum(array != found[name])) for name, array in expected.items()}
    return {name: number for name, number in numbers.items() if number}


def _add(total: dict[str, int], numbers: Mapping[str, int]) -> None:
    for name, number in numbers.items():
        total[name] = total.get(name, 0) + number


def _of_images(
    form: Form, batch: Mapping[str, Any], rows: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs and counts, one row an image, without padding."""
    inputs = [batch[name] for name in ("image", "size") if name in batch]
    outputs, counts = jax.device_get(form(*inputs))
    by_image = {name: np.asarray(c).reshape(len(rows), -1)[rows] for name, c in counts.items()}
    return {name: np.asarray(y)[rows] for name, y in outputs.items()}, by_image
