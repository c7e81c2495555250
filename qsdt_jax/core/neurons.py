"""Spiking neurons that emit counts: IE-LIF (the paper's), I-LIF, LIF and their ANN counterpart.

One time step (paper, section 4; published code). With v = scale * u - (threshold - 1/2):

    count  c = floor(clip(v, 0, D) + 1/2)          integers 0..D, half rounds up
    output s = c * step

and over time, with the reset path detached (siblings of the published code):

    u[t] = decay * (u[t-1] - reset(c[t-1])) + x[t]

| neuron         | scale | threshold | step | over time                     |
|----------------|-------|-----------|------|-------------------------------|
| IE-LIF         | D     | 1/2       | 1/D  | decay 0.25, soft reset        |
| I-LIF          | 1     | 1/2       | 1    | decay 0.25, soft reset        |
| LIF            | 1     | 1         | 1    | D = 1, decay 0.5 (tau 2)      |
| quantized ReLU | D     | 1/2       | 1/D  | no memory: every step is new  |

With `decay_input` the input decays too: (1 - decay) x[t] is added. That is a factor on the whole potential,
so the scale has it. A LIF neuron then has scale 1/2 and halves its input, u + (x - u) / tau with tau = 2, as
in SDT-V2; a spike is worth 1 as before.

With a learned decay (PLIF, Fang et al., 2021) the input decays in this way, and 1 - decay = sigmoid(w) for a
number w of each layer of neurons. As it changes, the scale is without it.

With one time step a quantized ReLU of D + 1 levels IS the IE-LIF neuron; it is kept under its own name
because it is the baseline against which a spiking network must justify itself.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from qsdt_jax.core.exact import rounded
from qsdt_jax.core.kept import kept
from qsdt_jax.core.spikes import Spikes, codes_of, counts_of, gates_of
from qsdt_jax.core.surrogates import Surrogate, surrogate_slope

NeuronKind = Literal["ie_lif", "i_lif", "lif", "quantized_relu"]
Reset = Literal["soft", "hard"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neuron:
    """The constants of a spiking neuron; see the table in this file.

    Attributes:
      levels: D, the largest count.
      scale: counts per unit of membrane potential, u in this file.
      threshold: potential, in counts, at which the first spike fires; the others follow one apart.
      step: real value of one spike.
      timesteps: T, number of time steps that share one membrane.
      decay: share of the membrane that survives one time step (beta).
      reset: "soft" subtracts the potential that the emitted count stands for, "hard" sets it to 0.
      surrogate: shape of the surrogate gradient.
      learned_decay: whether each layer learns its decay, which starts at `decay`.
    """

    levels: int
    scale: float
    threshold: float
    step: float
    timesteps: int = 1
    decay: float = 0.25
    reset: Reset = "soft"
    surrogate: Surrogate = "straight_through"
    learned_decay: bool = False


def make_neuron(
    kind: NeuronKind = "ie_lif",
    *,
    levels: int = 4,
    timesteps: int = 1,
    decay: float | None = None,
    decay_input: bool = False,
    reset: Reset = "soft",
    surrogate: Surrogate = "straight_through",
    learned_decay: bool = False,
) -> Neuron:
    """The neuron of a given kind (table in this file).

    Args:
      kind: "ie_lif", "i_lif", "lif" or "quantized_relu".
      levels: D >= 1; a "lif" neuron is binary and takes D = 1 only.
      timesteps: T >= 1.
      decay: beta in [0, 1]; None takes the kind's usual value.
      decay_input: whether the input is multiplied by 1 - decay; the decay is then below 1.
      reset: "soft" or "hard".
      surrogate: see `core.surrogates`.
      learned_decay: whether each layer learns its decay, which is then between 0 and 1 and decays the input.

    Raises:
      ValueError: a value out of range, or an unknown kind.
    """
    if levels < 1 or timesteps < 1:
        raise ValueError(f"levels and timesteps must be at least 1, got {levels} and {timesteps}")
    if decay is not None and not 0 <= decay <= 1:
        raise ValueError(f"decay must lie in [0, 1], got {decay}")
    if reset not in ("soft", "hard"):
        raise ValueError(f"reset must be 'soft' or 'hard', got {reset!r}")
    if surrogate not in get_args(Surrogate):
        raise ValueError(f"surrogate must be one of {', '.join(get_args(Surrogate))}; got {surrogate!r}")
    match kind:
        case "ie_lif":
            scale, threshold, usual_decay = float(levels), 0.5, 0.25
        case "i_lif":
            scale, threshold, usual_decay = 1.0, 0.5, 0.25
        case "lif":
            if levels != 1:
                raise ValueError(f"a lif neuron is binary: levels must be 1, got {levels}")
            scale, threshold, usual_decay = 1.0, 1.0, 0.5
        case "quantized_relu":
            scale, threshold, usual_decay, decay = float(levels), 0.5, 0.0, 0.0
        case _:
            raise ValueError(f"unknown neuron {kind!r}")
    decay = usual_decay if decay is None else decay
    if decay_input and decay == 1:
        raise ValueError("decay must be below 1 where the input decays: of 1 nothing of the input is left")
    if learned_decay and not 0 < decay < 1:
        raise ValueError(f"decay must be between 0 and 1 where it is learned, got {decay}")
    return Neuron(
        levels=levels,
        scale=scale * (1 - decay) if decay_input and not learned_decay else scale,
        threshold=threshold,
        step=1.0 / scale,
        timesteps=timesteps,
        decay=decay,
        reset=reset,
        surrogate=surrogate,
        learned_decay=learned_decay,
    )


def fire(x: jax.Array, neuron: Neuron, share: jax.Array | None = None) -> Spikes:
    """The spikes that a layer of neurons emits for its input current.

    Args:
      x: (B * T, ...) input current, the T time steps of one image next to each other.
      neuron: the neuron's constants.
      share: of a learned decay, 1 - decay: a number between 0 and 1, in x's dtype.

    Returns:
      Spikes of x's shape and dtype.

    Raises:
      ValueError: the leading axis is not a multiple of T.
    """
    decay: float | jax.Array = neuron.decay
    if share is not None:
        x, decay = rounded(share * x), 1 - share
    counts, codes = _count(x, neuron) if neuron.timesteps == 1 else _fire_over_time(x, neuron, decay)
    return Spikes(counts=counts, step=neuron.step, levels=neuron.levels, codes=codes)


def _fire_over_time(x: jax.Array, neuron: Neuron, decay: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    if x.shape[0] % neuron.timesteps:
        raise ValueError(f"the leading axis {x.shape[0]} is not a multiple of {neuron.timesteps} time steps")
    currents = x.reshape(-1, neuron.timesteps, *x.shape[1:])
    membrane = jnp.zeros_like(currents[:, 0])
    emitted = []
    for t in range(neuron.timesteps):
        membrane = membrane + currents[:, t]
        counts, codes = _count(membrane, neuron)
        emitted.append((counts, codes))
        membrane = rounded(decay * _reset(membrane, jax.lax.stop_gradient(counts), neuron))
    counts, codes = (jnp.stack(steps, axis=1).reshape(x.shape) for steps in zip(*emitted, strict=True))
    return counts, codes


def _reset(membrane: jax.Array, counts: jax.Array, neuron: Neuron) -> jax.Array:
    if neuron.reset == "hard":
        return jnp.where(counts > 0, 0.0, membrane)
    # One LIF spike costs its usual threshold, one IE-LIF spike the 1/D it stands for.
    return membrane - rounded(counts * (1 / neuron.scale))


def _potential_in_counts(u: jax.Array, neuron: Neuron) -> jax.Array:
    v = neuron.scale * u
    return v if neuron.threshold == 0.5 else rounded(v) - (neuron.threshold - 0.5)


def spike_count(u: jax.Array, neuron: Neuron) -> jax.Array:
    """Spike count c = floor(clip(v, 0, D) + 1/2) of membrane potential u, with a surrogate gradient.

    Args:
      u: membrane potential, any shape.
      neuron: the neuron's constants; time plays no role here.

    Returns:
      Integers 0..D in u's dtype.
    """
    return _count(u, neuron)[0]


def _count(u: jax.Array, neuron: Neuron) -> tuple[jax.Array, jax.Array]:
    """Spike counts, and their codes, which have no gradient."""
    v = _potential_in_counts(u, neuron)
    counts = jnp.floor(jnp.clip(v, 0, neuron.levels) + 0.5)
    gated = neuron.surrogate == "straight_through"
    is_open = surrogate_slope(v, neuron.levels, neuron.surrogate) > 0 if gated else None
    return counts, codes_of(counts, is_open, neuron.levels)


def _count_forward(u, neuron):
    """Counts, and what the backward pass of the neuron keeps: their codes, a byte each for D up to 127.

    Products that multiply in bfloat16 keep the same bytes, those of float32 programs their own counts.

    The gate says whether 0 < v < D. Other surrogates than "straight_through" keep their real slope as well.
    The counts that go on are read from the codes, so a program that keeps what `core.kept` names alone
    computes nothing before the neuron again, and no rounding there can move a spike (`layers.remat`).
    """
    codes = kept(_count(u, neuron)[1])
    slope = None
    if neuron.surrogate != "straight_through":
        slope = surrogate_slope(_potential_in_counts(u, neuron), neuron.levels, neuron.surrogate)
        slope = kept(slope)
    return (counts_of(codes, u.dtype), codes), (codes, slope)


def _count_backward(neuron, residuals, grads):
    """The gradient of u from that of c, with v = scale * u - (threshold - 1/2).

    c(v) is a staircase, whose derivative is a sum of deltas. `core.surrogates` puts bumps in their place:
    dc/dv := slope(v), kept by the forward pass;  dv/du = scale.  So  dL/du = dL/dc slope(v) scale.
    With s = c step and step = 1 / scale, the straight-through slope gives ds/du = 1 for 0 < v < D, else 0;
    where the input decays, ds/du = 1 - decay.
    """
    (codes, slope), (grad, _) = residuals, grads
    slope = gates_of(codes, grad.dtype) if slope is None else slope
    return (grad * slope.astype(grad.dtype) * neuron.scale,)


# Not as a decorator, under which type checkers lose the signature.
_count = jax.custom_vjp(_count, nondiff_argnums=(1,))
_count.defvjp(_count_forward, _count_backward)
