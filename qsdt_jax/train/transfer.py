"""Transfer: a network that starts from the variables of another one, tensor by tensor.

Every tensor must have its counterpart of the same shape. Three may differ, as the networks themselves say
(`models.parts.Parts`): a layer of classes where these do, by number or by name, which then starts anew; a
part beside the backbone that one of the two has not, which starts anew or is left out, as a classifier's head
in a segmenter; and the stem where the channels of the image do, whose filters become the mean over the old
channels, repeated (RGB to the two polarities of events). Any other difference is an error that names it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.errors import UserError
from qsdt_jax.models.backbone import STEM
from qsdt_jax.models.parts import Parts
from qsdt_jax.tasks.task import Variables
from qsdt_jax.workdir.integrity import leaves_of

STEM_KERNEL = f"params/{STEM}/conv/kernel"
SHOWN = 3


def transfer(
    source: Mapping[str, Any],
    target: Variables,
    *,
    source_parts: Parts,
    target_parts: Parts,
    new_head: bool = False,
) -> tuple[Variables, list[str]]:
    """The variables of `target` with the values of `source`.

    Args:
      source: "params" and "batch_stats" of the trained network.
      target: freshly drawn variables of the new one.
      source_parts, target_parts: of the two networks.
      new_head: whether layers of classes start anew though they may fit, the classes being others.

    Returns:
      The variables, and one line for each tensor that was not taken as it is.

    Raises:
      UserError: a tensor is missing, left over or of another shape.
    """
    given, _ = leaves_of({name: source[name] for name in ("params", "batch_stats") if name in source})
    wanted, structure = leaves_of(target)
    fits = {name for name, leaf in wanted.items() if name in given and jnp.shape(given[name]) == leaf.shape}
    anew = _tensors(_lacking(target_parts, given), wanted)
    for layer in target_parts.of_classes:
        tensors = _tensors((layer,), wanted)
        if new_head or not tensors <= fits:
            anew |= tensors
    left_out = _tensors(_lacking(source_parts, wanted), given)
    taken, remarks, wrong = {}, [], []
    for name, leaf in wanted.items():
        if name in anew:
            taken[name] = leaf
            remarks.append(f"{name}: starts anew, {list(leaf.shape)}")
        elif name not in given:
            wrong.append(f"{name}: expected {list(leaf.shape)}, found nothing")
        elif name in fits:
            taken[name] = jnp.asarray(given[name], leaf.dtype)
        elif name == STEM_KERNEL and _differs_in_channels(given[name], leaf):
            taken[name] = _other_channels(jnp.asarray(given[name], leaf.dtype), leaf.shape[2])
            remarks.append(f"{name}: mean of {given[name].shape[2]} channels, {leaf.shape[2]} times")
        else:
            wrong.append(f"{name}: expected {list(leaf.shape)}, found {list(jnp.shape(given[name]))}")
    for name in sorted(given.keys() - wanted.keys()):
        if name in left_out:
            remarks.append(f"{name}: left out")
        else:
            wrong.append(f"{name}: not in this network")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UserError("the network to start from does not fit: " + "; ".join(sorted(wrong)[:SHOWN]) + more)
    return jax.tree.unflatten(structure, [taken[name] for name in wanted]), remarks


def _lacking(parts: Parts, names: Iterable[str]) -> tuple[str, ...]:
    """The parts beside a backbone of which a network with tensors of these names has nothing."""
    names = list(names)
    return tuple(part for part in parts.beside if not _tensors((part,), names))


def _tensors(parts: tuple[str, ...], names: Iterable[str]) -> set[str]:
    """The names, "COLLECTION/PART/...", that belong to some parts."""
    return {name for name in names if f"{name.partition('/')[2]}/".startswith(tuple(f"{p}/" for p in parts))}


def _differs_in_channels(given, wanted) -> bool:
    shape = list(jnp.shape(given))
    return len(shape) == 4 and [*shape[:2], shape[3]] == [*wanted.shape[:2], wanted.shape[3]]


def _other_channels(kernel: jax.Array, channels: int) -> jax.Array:
    """A kernel (kh, kw, I, O) for another number of inputs: the mean over the old ones, for each new one."""
    return jnp.repeat(jnp.mean(kernel, axis=2, keepdims=True), channels, axis=2)
