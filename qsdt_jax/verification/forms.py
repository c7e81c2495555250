"""The forms of one network, and what is told where they are not one network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsdt_jax.deploy import agreement, reference
from qsdt_jax.deploy.agreement import CALL, Comparison, Form
from qsdt_jax.deploy.bundle import Bundle
from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.spike_driven import SpikeArithmetic
from qsdt_jax.errors import UserError
from qsdt_jax.models import MaskRCNN
from qsdt_jax.tasks.task import Variables


def forms_of(model: Any, variables: Variables, bundle: Bundle, file: Path | None = None) -> dict[str, Form]:
    """The forms by name, first the one that was trained.

    Args:
      model, variables: of the network.
      bundle: folded of these.
      file: that the bundle was written to, for the NumPy reader; a detector has none.
    """
    program = bundle.program
    integers, spikes = IntegerArithmetic(), SpikeArithmetic(program.neuron.levels)
    if isinstance(program, FoldedDetector):
        assert bundle.settings is not None and isinstance(model, MaskRCNN)
        settings = bundle.settings
        return {
            "training form": agreement.detector_training_form(model, variables, settings),
            "integer form": agreement.detector_form(program, integers, settings),
            "spike-driven form": agreement.detector_form(program, spikes, settings),
        }
    forms = {
        "training form": agreement.training_form(model, variables),
        "integer form": agreement.deployed_form(program, integers),
        "spike-driven form": agreement.deployed_form(program, spikes),
    }
    if file:
        forms[f"NumPy reader of {file}"] = agreement.reader_form(reference.read(file))
    return forms


def first_different(comparison: Comparison, order: Sequence[str]) -> str | None:
    """The first neuron whose counts differ; names of steps come in the order of the network."""
    neurons = comparison.different_counts
    return min(neurons, key=lambda neuron: order.index(neuron.partition(CALL)[0]), default=None)


def require_agreement(found: Mapping[str, Comparison], order: Sequence[str]) -> None:
    """Raises UserError for the first form that differs from the training form; `order` as above."""
    for name, comparison in found.items():
        if comparison.differs:
            raise UserError(difference(name, comparison, order))


def difference(name: str, comparison: Comparison, order: Sequence[str]) -> str:
    """In how many numbers, and first in which neuron, a form differs from the training form."""
    neurons, outputs = comparison.different_counts, comparison.different_outputs
    first = first_different(comparison, order)
    where = "" if first is None else f", first in {first}"
    others = ", ".join(f"{outputs.get(k, 0):,} of {n:,} {k}" for k, n in comparison.outputs.items())
    return (
        f"the {name} differs from the training form in {sum(neurons.values()):,} of "
        f"{comparison.counts:,} spike counts{where}, and in {others}"
    )


def agreed(found: Mapping[str, Comparison]) -> str:
    """What the forms, which agree, have in common."""
    first = next(iter(found.values()))
    numbers = {"spike counts": first.counts, **first.outputs}
    *others, last = (f"{number:,} {name}" for name, number in numbers.items())
    return f"{', '.join(['training form', *found])} give the same {', '.join(others)} and {last}, bit for bit"
