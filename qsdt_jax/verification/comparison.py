"""Whether the forms of a network are one network, how it fires, what it costs, and others' numbers of it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qsdt_jax.assemble.network import require_logits, timesteps_of
from qsdt_jax.deploy import agreement, explanation
from qsdt_jax.deploy.bundle import Bundle
from qsdt_jax.deploy.explanation import Explanation, Right
from qsdt_jax.deploy.mistakes import mistakes_in, other_fields
from qsdt_jax.deploy.program import LOGITS, Program
from qsdt_jax.energy.rates import Activity, measure_activity
from qsdt_jax.energy.report import Report, make_report
from qsdt_jax.energy.unfolded import Unfolded, is_spiking
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.loading.opened import Network
from qsdt_jax.metric import Metric
from qsdt_jax.models import Classifier, Segmenter, SpikingResformer
from qsdt_jax.tasks.task import Batch
from qsdt_jax.verification.forms import agreed, difference, first_different, forms_of
from qsdt_jax.verification.theirs import Theirs


class Unscored:
    """In the place of a task where images have no labels."""

    metrics: tuple[Metric, ...] = ()

    def score(self, outputs: Any, batch: Batch) -> Scored:
        """Nothing."""
        return Scored()

    def summarize(self, total: Scored, truth: Any) -> dict[str, float]:
        """Nothing."""
        return {}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where numbers differ from the network's own, and why.

    Attributes:
      told: in how many numbers, and first where.
      cause: why; None where no reason was looked for, as of a detector.
    """

    told: str
    cause: Explanation | None

    @property
    def lines(self) -> list[str]:
        """In words."""
        if self.cause is None:
            return [self.told]
        if self.cause.mistake is None:
            return [self.told, "likely reason: none of the mistakes that are known gives these numbers"]
        first = f"; the first layer that it changes is {self.cause.first}" if self.cause.first else ""
        rest = (
            "exactly these numbers"
            if not self.cause.left
            else (f"these numbers but for {100 * self.cause.left:.2g} % of the difference")
        )
        return [
            self.told,
            f"likely reason: {self.cause.mistake}, which gives {rest}{first} (right: {self.cause.right})",
        ]


def compare_forms(
    network: Network, bundle: Bundle, batches: Sequence[Batch], file: Path | None
) -> str | Difference:
    """What the training form and the others have in common, or where they differ; of these the first.

    Args:
      network: trained.
      bundle: folded of it.
      batches: of `verification.seen`.
      file: that holds the bundle, or None.
    """
    forms, program = forms_of(network.model, network.variables, bundle, file), bundle.program
    found, order = agreement.compare(forms, batches), [step.name for step in program.steps]
    for name, comparison in found.items():
        if comparison.differs:
            cause = None
            if isinstance(program, Program):
                neuron = first_different(comparison, order)
                cause = _cause(network, program, batches, forms[name], neuron)
            return Difference(difference(name, comparison, order), cause)
    return agreed(found)


def _cause(
    network: Network, program: Program, batches: Sequence[Batch], form: agreement.Form, neuron: str | None
) -> Explanation:
    """Of what a form gives that differs, by the first batch in which it does."""
    model = require_logits(network.model, network.where)
    for batch in batches:
        inputs = _inputs(batch)
        outputs, counts = jax.device_get(form(*inputs))
        right, mistakes = Right.of(program, *inputs), mistakes_in(program, model, network.variables)
        own, logits = right.found, outputs[LOGITS]
        if neuron is None:
            if np.any(logits != own[0]):
                tried = explanation.attempts(right, mistakes, only_output=True)
                return explanation.explain_logits(own, logits, tried)
        else:
            theirs = np.asarray(counts[neuron]).reshape(own[1][neuron].shape)
            if np.any(theirs != own[1][neuron]):
                return explanation.explain_counts(right, neuron, theirs, mistakes)
    return explanation.NOTHING


def compare_theirs(network: Network, program: Program | None, theirs: Theirs) -> str | Difference:
    """What somebody else's numbers and the network's own have in common, or where they differ.

    Args:
      network: a classifier or a segmenter.
      program: folded of it, or None where it cannot be; then its training form is compared.
      theirs: the numbers.

    Raises:
      UserError: they are of other images, layers or classes; a detector.
    """
    model = _with_logits(network)
    inputs = _inputs(theirs.batch(network))
    right = None if program is None else Right.of(program, *inputs)
    own = _ran(model, network.variables, inputs) if right is None else right.found
    logits = theirs.logits_like(own[0])
    counts = theirs.counts_like(own[1], timesteps_of(model))
    apart = explanation.distance(own[0], logits)
    first = next((name for name in own[1] if name in counts and np.any(counts[name] != own[1][name])), None)
    if first is None and apart < explanation.SAME:
        return _agreement_with(theirs, own, counts)
    told = f"{theirs.path}: its logits are {100 * apart:.3g} % of their spread from those here"
    if first is not None:
        number = np.sum(counts[first] != own[1][first])
        told += (
            f", and of the neurons that it gives {first} is the first whose counts differ, "
            f"{number:,} of {counts[first].size:,}"
        )
    if right is None:
        tried = (
            explanation.Attempt(
                other.name, other.right, functools.partial(_ran, other.model, network.variables, inputs)
            )
            for other in other_fields(model, frames=inputs[0].ndim == 5)
        )
        return Difference(told, explanation.explain_logits(own, logits, tried))
    assert not isinstance(model, SpikingResformer)
    mistakes = mistakes_in(right.program, model, network.variables)
    if first is not None:
        agreeing = set(counts) - {first}
        return Difference(told, explanation.explain_counts(right, first, counts[first], mistakes, agreeing))
    tried = explanation.attempts(right, mistakes, only_output=counts.keys() == own[1].keys())
    return Difference(told, explanation.explain_logits(own, logits, tried))


def _agreement_with(theirs: Theirs, own: Any, counts: Mapping[str, np.ndarray]) -> str:
    number = sum(c.size for c in counts.values())
    given = f"{number:,} spike counts and " if counts else ""
    exact = "bit for bit" if np.array_equal(theirs.logits, own[0]) else "up to rounding"
    return f"{theirs.path} gives the same {given}{own[0].size:,} logits, {exact}"


def _ran(model: Any, variables: Any, inputs: Sequence[Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits and counts of the training form; neurons in the order in which they fire."""
    outputs, counts = jax.device_get(agreement.training_form(model, variables)(*inputs))
    return outputs[LOGITS], {name: counts[name] for name in agreement.firing_order(model, variables, *inputs)}


def _with_logits(network: Network) -> Classifier | Segmenter | SpikingResformer:
    """Its model; raises UserError for a detector, whose outputs are no logits."""
    if isinstance(network.model, SpikingResformer):
        return network.model
    return require_logits(network.model, network.where)


def _inputs(batch: Batch) -> list[jax.Array]:
    return [batch[name] for name in ("image", "size") if name in batch]


def energy_of(network: Network, bundle: Bundle | None, batches: Sequence[Batch]) -> Report:
    """How a network fires on images, and what one costs at that.

    Args:
      network: trained.
      bundle: folded of it; None where that cannot be, and it is measured as it is trained.
      batches: of `verification.seen`.

    Raises:
      UserError: it cannot be folded and is no classifier with spiking neurons; a detector finds no object.
    """
    height, width = network.config.data.image_size
    if bundle is not None:
        program, settings = bundle.program, bundle.settings
    elif is_spiking(network.model):
        program = Unfolded(model=network.model, variables=network.variables, image_size=(height, width))
        settings = None
    else:
        raise UserError(f"{network.where} cannot be folded, and is no classifier with spiking neurons")
    activity = measure_activity(program, batches, Unscored(), settings=settings)
    return make_report(program, (height, width), activity, settings)


def rates_by_stage(activity: Activity) -> dict[str, float]:
    """Share of the slots that carry a spike, by the first word of the names of neurons, in their order."""
    totals: dict[str, np.ndarray] = {}
    for name, histogram in activity.histograms.items():
        stage = name.partition("/")[0]
        totals[stage] = totals.get(stage, 0) + histogram
    whole = Activity(totals, {}, activity.images)
    return {stage: whole.firing_rate(stage) for stage in totals}
