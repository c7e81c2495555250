"""Why the numbers of another program are not those of a network: which mistake gives these numbers.

Where spike counts are known, the first layer that differs is computed again in each wrong way, from the
counts before it, in which both agree. Where logits alone are known, the whole network is.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import class_scores, interpret, run_step
from qsdt_jax.deploy.mistakes import Mistake, Wrong
from qsdt_jax.deploy.program import IMAGES, LOGITS, Fire, Program, inputs_of

SAME = 1e-4  # Distance of logits that other orders of summation explain.
NEAR = 1e-3  # Of a potential to a threshold, in counts, that they explain as well.
LEFT = 0.1  # Share of a difference that may be left where a mistake is said to explain it.


class Explanation(NamedTuple):
    """What explains a difference.

    Attributes:
      mistake: its name; None where no mistake that is known gives these numbers.
      right: what is right, in words.
      left: what is left of the difference with that mistake, 0..1.
      first: the first layer that the mistake changes, where that had to be found out; else None.
    """

    mistake: str | None
    right: str = ""
    left: float = 1.0
    first: str | None = None


NOTHING = Explanation(None)
ROUNDING = Explanation(
    "rounding: batch norm is folded in another order or precision",
    "each difference is of one count, at a potential within 0.001 of a threshold",
    0.0,
)


@dataclasses.dataclass(frozen=True)
class Right:
    """A network as it is, on some images.

    Attributes:
      program: folded.
      values: each value by name, as `interpreter.interpret` gives them.
      sizes: (B, 2) of padded images.
    """

    program: Program
    values: Mapping[str, Any]
    sizes: jax.Array | None

    @classmethod
    def of(cls, program: Program, images: Any, sizes: jax.Array | None = None) -> "Right":
        values = interpret(program, jnp.asarray(images), IntegerArithmetic(), sizes)
        return cls(program, values, sizes)

    @property
    def neurons(self) -> list[str]:
        """In the order in which they fire."""
        return [step.name for step in self.program.steps if isinstance(step, Fire)]

    @property
    def frames(self) -> Any:
        """(B, T, H, W, C), the images of each time step."""
        frames = self.values[IMAGES]
        return frames.reshape(-1, self.program.neuron.timesteps, *frames.shape[1:])

    @property
    def found(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Its logits, and its counts in the order in which neurons fire."""
        logits = np.asarray(class_scores(self.program, dict(self.values)))
        return logits, {name: np.asarray(self.values[name]) for name in self.neurons}


def explain_counts(
    right: Right,
    neuron: str,
    counts: np.ndarray,
    mistakes: Iterable[Mistake],
    known: Collection[str] | None = None,
) -> Explanation:
    """Which mistake, in what lies between a neuron and those before it, gives its counts.

    Args:
      right: the network.
      neuron: the first whose counts differ.
      counts: the other ones, of the shape of its own.
      mistakes: that are tried, in this order; of equals the first is told.
      known: neurons whose counts are known to be right; None for all before it.
    """
    own = np.asarray(right.values[neuron])
    different = np.sum(own != counts)
    best = NOTHING
    for mistake in mistakes:
        found = np.asarray(_recomputed(right, neuron, mistake.make(), known)[neuron])
        left = float(np.sum(found != counts) / different)
        if left < best.left:
            best = Explanation(mistake.name, mistake.right, left)
        if left == 0:
            return best
    if _is_rounding(right, neuron, counts):
        return ROUNDING
    return best if best.left <= LEFT else NOTHING


class Attempt(NamedTuple):
    """A way to compute logits and counts otherwise; `mistake` and `right` as of an explanation."""

    mistake: str
    right: str
    run: Callable[[], tuple[np.ndarray, Mapping[str, np.ndarray]]]


def attempts(right: Right, mistakes: Iterable[Mistake], *, only_output: bool = False) -> Iterator[Attempt]:
    """Each mistake made in the whole network, or only behind the last neuron."""
    output = dict(right.program.outputs)[LOGITS]

    def run(mistake: Mistake) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        wrong = mistake.make()
        if only_output:
            values = _recomputed(right, output, wrong)
        else:
            values = interpret(wrong.program, right.frames, wrong.arithmetic, right.sizes)
        logits = class_scores(wrong.program, values)
        return np.asarray(logits), {name: np.asarray(values[name]) for name in right.neurons}

    for mistake in mistakes:
        yield Attempt(mistake.name, mistake.right, functools.partial(run, mistake))


def explain_logits(
    own: tuple[np.ndarray, Mapping[str, np.ndarray]], logits: np.ndarray, tried: Iterable[Attempt]
) -> Explanation:
    """Which attempt gives these logits.

    Args:
      own: logits and counts of the network, its neurons in their order.
      logits: the other ones.
      tried: in this order; of equals the first is told.
    """
    whole = distance(own[0], logits)
    best = NOTHING
    for attempt in tried:
        found, counts = attempt.run()
        apart = distance(found, logits)
        if apart / whole < best.left:
            changed = (name for name, c in own[1].items() if not np.array_equal(c, counts[name]))
            left = 0.0 if apart < SAME else apart / whole
            best = Explanation(attempt.mistake, attempt.right, left, next(changed, "the layer of the logits"))
        if apart < SAME:
            return best
    return best if best.left <= LEFT else NOTHING


def distance(left: np.ndarray, right: np.ndarray) -> float:
    """How far logits are apart, by the spread of the first over classes: 0 for the same."""
    spread = np.sqrt(np.mean((left - np.mean(left, -1, keepdims=True)) ** 2))
    return float(np.sqrt(np.mean((left - right) ** 2)) / max(spread, np.finfo(np.float32).tiny))


def _recomputed(
    right: Right, target: str, wrong: Wrong, known: Collection[str] | None = None
) -> dict[str, Any]:
    """All values, that of a step and what lies before it done wrongly, from counts and values that are right.

    Right are the counts of the neurons before it, or of those that are known, and the values that these have
    taken.
    """
    steps = {step.name: step for step in wrong.program.steps}
    names = list(steps)
    before = [
        name
        for name in right.neurons
        if names.index(name) < names.index(target) and (known is None or name in known)
    ]
    given = {IMAGES, *before, *(inputs_of(steps[name])[0] for name in before)}
    between, ahead = set(), [target]
    while ahead:
        name = ahead.pop()
        if name not in given and name not in between:
            between.add(name)
            ahead.extend(inputs_of(steps[name]))
    sizes = right.sizes
    if sizes is not None:
        sizes = jnp.repeat(sizes, wrong.program.neuron.timesteps, axis=0)
    values = dict(right.values)
    for step in wrong.program.steps:
        if step.name in between:
            values[step.name] = run_step(step, values, wrong.program, wrong.arithmetic, sizes)
    return values


def _is_rounding(right: Right, neuron: str, counts: np.ndarray) -> bool:
    """Whether all differences are of one count and beside a threshold; None of it is known for T > 1."""
    program, own = right.program, np.asarray(right.values[neuron], np.int32)
    if program.neuron.timesteps > 1:
        return False
    step = next(step for step in program.steps if step.name == neuron)
    assert isinstance(step, Fire)
    current = np.asarray(right.values[step.input], np.float64) * step.input_gain
    potential = current * program.neuron.scale - (program.neuron.threshold - 0.5)
    places = own != counts
    beside = np.abs(potential + 0.5 - np.round(potential + 0.5))[places] < NEAR
    return bool(np.all(np.abs(own - counts)[places] == 1) and np.all(beside))
