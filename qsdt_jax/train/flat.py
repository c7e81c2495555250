"""The tensors of a tree in a few arrays: arithmetic on all of them is then a few kernels of a GPU.

Tensor by tensor, an optimiser starts kernels by the thousand, and most tensors are so small that to start one
takes longer than its work. What works element by element takes a `Flat` as any other tree; `axes`, `norms`,
`scaled`, `paths` and `per_tensor` say of both what belongs to a tensor. The state of a run, and so a
checkpoint, holds tensors: a train step flattens and unflattens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

# Elements of a row, for tensors of two or more axes and for others. Long rows make few terms of a norm. Short
# ones need padding behind few tensors: each is an operand, and XLA takes at most 128 into one kernel.
ROW, SHORT_ROW = 1024, 8


@dataclasses.dataclass(frozen=True)
class Group:
    """Tensors that lie in one array (rows, `row`), each from a new row on and padded with zeros.

    Attributes:
      places: of the tensors among the leaves of their tree.
      shapes: of the tensors.
      row: elements of a row.
    """

    places: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    row: int

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of elements."""
        return tuple(map(math.prod, self.shapes))

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """How many each tensor has, (tensors,)."""
        return -(-np.asarray(self.sizes) // self.row)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The first row of each tensor, (tensors,)."""
        return np.cumsum(self.rows) - self.rows

    @property
    def axes(self) -> int:
        """The fewest that a tensor has."""
        return min(map(len, self.shapes))

    def joined(self, leaves: Sequence[jax.Array]) -> jax.Array:
        """The array, of all leaves of the tree."""
        parts = []
        for place, size in zip(self.places, self.sizes, strict=True):
            parts.append(leaves[place].reshape(-1))
            if padding := -size % self.row:
                parts.append(jnp.zeros(padding, leaves[place].dtype))
        return jnp.concatenate(parts).reshape(-1, self.row)

    def parted(self, arrays: Sequence[jax.Array]) -> list[list[jax.Array]]:
        """The tensors of each of several arrays.

        XLA takes slices of one size out of one array in one kernel, so the arrays are stacked. The barrier
        keeps it from computing the arrays again for each slice.
        """
        line = jax.lax.optimization_barrier(jnp.stack(arrays)).reshape(-1)
        begins = self.row * (np.arange(len(arrays))[:, None] * len(arrays[0]) + self.starts)
        return [
            [
                line[begin : begin + size].reshape(shape)
                for begin, size, shape in zip(own, self.sizes, self.shapes, strict=True)
            ]
            for own in begins.tolist()
        ]

    def norms(self, array: jax.Array) -> jax.Array:
        """That of each tensor, (tensors,)."""
        squares = jnp.sum(jnp.square(array), axis=1)
        # By a table with the rows of a tensor in a row: a sum by segment has the order of a GPU's threads.
        column = np.arange(max(self.rows))
        table = squares.at[jnp.asarray(self.starts)[:, None] + column].get(mode="clip")
        return jnp.sqrt(jnp.sum(jnp.where(column < jnp.asarray(self.rows)[:, None], table, 0), axis=1))

    def scaled(self, array: jax.Array, factors: jax.Array | np.ndarray) -> jax.Array:
        """Each tensor times its factor, (tensors,)."""
        tensor_of_row = np.repeat(np.arange(len(self.rows)), self.rows)
        return array * jnp.asarray(factors, array.dtype)[tensor_of_row][:, None]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the tensors of a tree lie.

    Attributes:
      structure: of the tree.
      shapes, dtypes: of its leaves.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """For each dtype one of the tensors of two or more axes and one of the others."""
        places: dict[tuple[np.dtype, int], list[int]] = {}
        for place, (dtype, shape) in enumerate(zip(self.dtypes, self.shapes, strict=True)):
            places.setdefault((dtype, ROW if len(shape) >= 2 else SHORT_ROW), []).append(place)
        return tuple(
            Group(tuple(own), tuple(self.shapes[place] for place in own), row)
            for (_, row), own in places.items()
        )


class Flat(struct.PyTreeNode):
    """The tensors of a tree, as `flatten` makes it.

    Attributes:
      arrays: one of each group, (rows, elements of a row); of what is a number for each tensor, (tensors,).
      layout: of the tensors in them.
    """

    arrays: tuple[Any, ...]
    layout: Layout = struct.field(pytree_node=False)

    def map(self, function: Callable[..., Any], *others: "Flat") -> "Flat":
        """What a function makes of each group, its array and its arrays of others; masked ones stay."""
        arrays = zip(self.arrays, *(other.arrays for other in others), strict=True)
        return self.replace(
            arrays=tuple(
                own[0] if isinstance(own[0], optax.MaskedNode) else function(group, *own)
                for group, own in zip(self.layout.groups, arrays, strict=True)
            )
        )


def flatten(tree: Any) -> Flat:
    """The tensors of a tree in a few arrays."""
    leaves, structure = jax.tree.flatten(tree)
    layout = Layout(structure, tuple(x.shape for x in leaves), tuple(np.dtype(x.dtype) for x in leaves))
    return Flat(tuple(group.joined(leaves) for group in layout.groups), layout)


def flatten_parts(tree: Any, like: Any) -> Any:
    """A tree, as the state of an optimiser, with each part flattened that has the structure of `like`."""
    structure = jax.tree.structure(like)

    def is_part(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda node: flatten(node) if is_part(node) else node, tree, is_leaf=is_part)


def unflatten(tree: Any) -> Any:
    """A tree in which each `Flat` is the tree that it was made of."""
    nodes, structure = jax.tree.flatten(tree, is_leaf=_is_flat)
    places: dict[Layout, list[int]] = {}
    for place, node in enumerate(nodes):
        if _is_flat(node):
            places.setdefault(node.layout, []).append(place)
    for layout, own in places.items():
        for place, part in zip(own, _trees(layout, [nodes[place] for place in own]), strict=True):
            nodes[place] = part
    return jax.tree.unflatten(structure, nodes)


def axes(tree: Any) -> Any:
    """The number of axes of each tensor; of a `Flat` the fewest of a group."""
    return tree.map(lambda group, _: group.axes) if _is_flat(tree) else jax.tree.map(jnp.ndim, tree)


def norms(tree: Any) -> Any:
    """The norm of each tensor."""
    return tree.map(Group.norms) if _is_flat(tree) else jax.tree.map(jnp.linalg.norm, tree)


def scaled(tree: Any, factors: Any) -> Any:
    """Each tensor times its factor, as `norms` and `per_tensor` give them."""
    if _is_flat(tree):
        return tree.map(Group.scaled, factors)
    return jax.tree.map(lambda tensor, factor: tensor * factor, tree, factors)


def paths(tree: Any) -> list[str]:
    """The names of the tensors, as "seg_head/classifier/kernel"."""
    if _is_flat(tree):
        tree = jax.tree.unflatten(tree.layout.structure, tree.layout.dtypes)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def per_tensor(tree: Any, numbers: Sequence[float]) -> Any:
    """Numbers in the order of `paths`, as `scaled` takes them for a tree."""
    if _is_flat(tree):
        return tree.map(lambda group, _: np.asarray([numbers[place] for place in group.places]))
    return jax.tree.unflatten(jax.tree.structure(tree), numbers)


def _is_flat(node: Any) -> bool:
    return isinstance(node, Flat)


def _trees(layout: Layout, flats: Sequence[Flat]) -> Iterable[Any]:
    """What several of one layout were made of."""
    leaves: list[list[Any]] = [[None] * len(layout.shapes) for _ in flats]
    for group, arrays in zip(layout.groups, zip(*(flat.arrays for flat in flats), strict=True), strict=True):
        for own, tensors in zip(leaves, group.parted(arrays), strict=True):
            for place, tensor in zip(group.places, tensors, strict=True):
                own[place] = tensor
    return [jax.tree.unflatten(layout.structure, own) for own in leaves]
