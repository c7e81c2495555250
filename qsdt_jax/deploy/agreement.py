"""Whether the forms of a network are the same network: every spike count and every logit, on real images.

A form is a function from images, and where they are padded their sizes (B, 2), to logits (B, ...) and spike
counts of each neuron by its name. Counts have the time steps of an image next to each other: (B * T, ...).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from qsdt_jax.deploy import reference
from qsdt_jax.deploy.interpreter import Arithmetic, class_scores, interpret
from qsdt_jax.deploy.program import Fire, Program
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.models import Classifier, Segmenter

Form = Callable[..., tuple[Any, dict[str, Any]]]


@dataclasses.dataclass
class Comparison:
    """What a form gave other than the first one.

    Attributes:
      counts, logits: how many were compared.
      different_counts: of each neuron, where there are any.
      different_logits: their number.
    """

    counts: int = 0
    logits: int = 0
    different_counts: dict[str, int] = dataclasses.field(default_factory=dict)
    different_logits: int = 0


def training_form(model: Classifier | Segmenter, variables: Mapping[str, Any]) -> Form:
    """The network as it is trained, in evaluation."""

    @jax.jit
    def forward(variables, images, *sizes):
        logits, state = model.apply(
            variables,
            images,
            False,
            *sizes,
            capture_intermediates=lambda module, _: isinstance(module, SpikingNeuron),
            mutable=["intermediates"],
        )
        spikes: Any = flatten_dict(state["intermediates"])
        return logits, {"/".join(path[:-1]): value[0].counts for path, value in spikes.items()}

    return functools.partial(forward, variables)


def deployed_form(program: Program, arithmetic: Arithmetic) -> Form:
    """A folded network in the integer or the spike-driven form."""

    @jax.jit
    def forward(program, images, *sizes):
        values = interpret(program, images, arithmetic, *sizes)
        counts = {step.name: values[step.name] for step in program.steps if isinstance(step, Fire)}
        return class_scores(program, values), counts

    return functools.partial(forward, program)


def reader_form(manifest: reference.Manifest) -> Form:
    """A bundle as `reference.read` gives it, by NumPy alone."""

    def forward(*inputs):
        values = reference.run(manifest, *map(np.asarray, inputs))
        names = [step["name"] for step in manifest["steps"] if step["kind"] == "fire"]
        return reference.class_scores(manifest, values), {name: values[name] for name in names}

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
        logits, counts = _of_images(forms[first], batch, rows)
        for name, comparison in found.items():
            other_logits, other_counts = _of_images(forms[name], batch, rows)
            comparison.logits += logits.size
            comparison.different_logits += int(np.sum(logits != other_logits))
            for neuron, expected in counts.items():
                different = int(np.sum(expected != other_counts[neuron]))
                comparison.counts += expected.size
                if different:
                    before = comparison.different_counts.get(neuron, 0)
                    comparison.different_counts[neuron] = before + different
    return found


def _of_images(
    form: Form, batch: Mapping[str, Any], rows: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits and counts, one row an image, without padding."""
    inputs = [batch[name] for name in ("image", "size") if name in batch]
    logits, counts = jax.device_get(form(*inputs))
    by_image = {name: np.asarray(c).reshape(len(rows), -1)[rows] for name, c in counts.items()}
    return np.asarray(logits)[rows], by_image
