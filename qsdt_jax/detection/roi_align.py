"""RoIAlign (He et al., 2017): features of boxes, from the level of a pyramid that fits the size of each.

A box becomes size x size bins of equal size, each the mean of 2 x 2 samples. Coordinates are aligned: the
middle of cell i of a map with stride S lies at pixel (i + 1/2) S. A sample is interpolated between the four
cells around it. Up to half a cell outside the map it has the value at the border, beyond that it is 0.

Two forms with one result. `roi_align` gathers from a table of all levels; its gradient adds into that table,
in an order that a GPU does not fix. `roi_align_by_matrices` multiplies by interpolation matrices, in one
order, and is many times slower.

Memory of `roi_align` on a CPU, in float32, beside its arguments and its result: 512 boxes of 7 x 7 bins from
an image of 800x1344 with 256 channels take 201 MB forward and 286 MB with the gradient, in chunks of 128. All
at once they take 503 and 1007 MB. 91 MB of each are the table.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.detection.boxes import area

STRIDES = (4, 8, 16, 32)
SAMPLES = 2  # Per bin and axis.
CHUNK = 128  # Boxes of an image that are computed together.
FINEST_SIDE = 56  # Root of the area, in pixels; twice that and more belongs to the next level.


class Samples(NamedTuple):
    """Where samples along one axis take their value: two cells and their weights, each (..., samples)."""

    low: jax.Array
    high: jax.Array
    low_weight: jax.Array
    high_weight: jax.Array


def level_of(boxes: jax.Array, levels: int = len(STRIDES)) -> jax.Array:
    """Level of the pyramid that a box is taken from (Lin et al., 2017), by comparisons, which round nothing.

    Args:
      boxes: (..., 4), in pixels.
      levels: in the pyramid.

    Returns:
      int32 (...): clip(floor(log2(sqrt(area) / 56 + 1e-6)), 0, levels - 1).
    """
    side = jnp.sqrt(area(boxes)) / FINEST_SIDE + 1e-6
    steps = 2.0 ** jnp.arange(1, levels, dtype=side.dtype)
    return jnp.sum(side[..., None] >= steps, axis=-1, dtype=jnp.int32)


def roi_align(
    maps: Sequence[jax.Array],
    boxes: jax.Array,
    size: int,
    strides: Sequence[int] = STRIDES,
    chunk: int = CHUNK,
) -> jax.Array:
    """Features of boxes. Differentiable in the maps; the gradient in the boxes is zero.

    Args:
      maps: of each level, fine to coarse, (B, h, w, c).
      boxes: (B, R, 4), in pixels.
      size: bins along each axis.
      strides: pixels per cell of each level.
      chunk: boxes of an image that are computed together; more are faster, and take more memory.

    Returns:
      (B, R, size, size, c), of the maps' type.
    """

    def align(maps: list[jax.Array], boxes: jax.Array) -> jax.Array:
        return _by_table(maps, boxes, size, strides, chunk)

    return jax.vmap(align)(list(maps), jax.lax.stop_gradient(boxes))


def roi_align_by_matrices(
    maps: Sequence[jax.Array],
    boxes: jax.Array,
    size: int,
    strides: Sequence[int] = STRIDES,
    chunk: int = CHUNK,
) -> jax.Array:
    """`roi_align` as products with interpolation matrices: its gradient is the same in every run."""

    def of_chunk(maps: list[jax.Array], boxes: jax.Array) -> jax.Array:
        level, parts = level_of(boxes, len(maps)), []
        for i, (x, stride) in enumerate(zip(maps, strides, strict=True)):
            cells = boxes / stride
            rows = interpolation(cells[:, 1], cells[:, 3], x.shape[0], size)
            columns = interpolation(cells[:, 0], cells[:, 2], x.shape[1], size)
            rows = jnp.where((level == i)[:, None, None], rows, 0)
            x = x.astype(rows.dtype)
            half = jnp.einsum("rqw,hwc->rqhc", columns, x, precision="highest")
            parts.append(jnp.einsum("rph,rqhc->rpqc", rows, half, precision="highest"))
        return functools.reduce(jnp.add, parts)

    def align(maps: list[jax.Array], boxes: jax.Array) -> jax.Array:
        chunks = _in_chunks(boxes, chunk)
        y = jax.lax.map(lambda chunk: of_chunk(maps, chunk), chunks)
        return y.reshape(-1, *y.shape[2:])[: len(boxes)].astype(maps[0].dtype)

    return jax.vmap(align)(list(maps), jax.lax.stop_gradient(boxes))


def interpolation(low: jax.Array, high: jax.Array, length: jax.Array | int, size: int) -> jax.Array:
    """The matrices that take bins along one axis out of that axis.

    Args:
      low: start of each interval (R,), in cells.
      high: its end (R,).
      length: cells of the axis.
      size: bins of the interval.

    Returns:
      (R, size, length).
    """
    samples = _samples(low, high, length, size)
    cells = jnp.arange(length, dtype=jnp.int32)
    low_weights, high_weights = (
        jnp.where(cell[..., None] == cells, weight[..., None], 0)
        for cell, weight in ((samples.low, samples.low_weight), (samples.high, samples.high_weight))
    )
    weights = low_weights + high_weights
    return weights.reshape(len(low), size, SAMPLES, length).sum(2)


def _samples(low: jax.Array, high: jax.Array, length: jax.Array | int, size: int) -> Samples:
    """Of intervals (R,) in cells, of an axis of `length` cells: SAMPLES per bin, weighted for their mean."""
    count = size * SAMPLES
    steps = (jnp.arange(count, dtype=low.dtype) + 0.5) / count
    length = jnp.broadcast_to(length, low.shape)[:, None]
    place = (low - 0.5)[:, None] + steps * (high - low)[:, None]
    within = (place >= -1) & (place <= length)
    place = jnp.clip(place, 0, (length - 1).astype(low.dtype))
    cell = jnp.floor(place).astype(jnp.int32)
    share = place - cell
    return Samples(
        cell,
        jnp.minimum(cell + 1, length - 1),
        jnp.where(within, (1 - share) / SAMPLES, 0),
        jnp.where(within, share / SAMPLES, 0),
    )


def _in_chunks(x: jax.Array, chunk: int) -> jax.Array:
    """Rows (R, ...) as (chunks, chunk, ...), filled up with zeros."""
    chunk = max(1, min(chunk, len(x)))
    filled = jnp.pad(x, [(0, -len(x) % chunk), *[(0, 0)] * (x.ndim - 1)])
    return filled.reshape(-1, chunk, *x.shape[1:])


def _by_table(
    maps: Sequence[jax.Array], boxes: jax.Array, size: int, strides: Sequence[int], chunk: int
) -> jax.Array:
    """`roi_align` of one image: maps (h, w, c), boxes (R, 4) -> (R, size, size, c)."""
    shapes = np.asarray([x.shape[:2] for x in maps], np.int32)
    starts = np.cumsum([0, *shapes.prod(1)], dtype=np.int32)
    table = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    of_type = jnp.promote_types(table.dtype, boxes.dtype)

    def corners(boxes: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        """The four cells around each sample: row of the table and weight, each (chunk, 2 size, 2 size)."""
        level = level_of(boxes, len(maps))
        heights, widths = jnp.moveaxis(jnp.asarray(shapes)[level], -1, 0)
        cells = boxes / jnp.asarray(strides, boxes.dtype)[level][:, None]
        y = _samples(cells[:, 1], cells[:, 3], heights, size)
        x = _samples(cells[:, 0], cells[:, 2], widths, size)
        start = jnp.asarray(starts)[level]
        return [
            (
                (start[:, None] + row * widths[:, None])[:, :, None] + column[:, None],
                row_weight[:, :, None] * column_weight[:, None],
            )
            for row, row_weight in ((y.low, y.low_weight), (y.high, y.high_weight))
            for column, column_weight in ((x.low, x.low_weight), (x.high, x.high_weight))
        ]

    @jax.custom_vjp
    def gathered(table: jax.Array, chunks: jax.Array) -> jax.Array:
        def of_chunk(boxes: jax.Array) -> jax.Array:
            parts = [
                table.at[place].get(mode="clip").astype(of_type) * weight[..., None]
                for place, weight in corners(boxes)
            ]
            samples = functools.reduce(jnp.add, parts)
            bins = samples.reshape(len(boxes), size, SAMPLES, size, SAMPLES, -1)
            return bins.sum((2, 4)).astype(table.dtype)

        return jax.lax.map(of_chunk, chunks)

    def forward(table: jax.Array, chunks: jax.Array) -> tuple[jax.Array, jax.Array]:
        return gathered(table, chunks), chunks

    def backward(chunks: jax.Array, cotangents: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Written out, so that all chunks add into one table, in float32 for maps of half precision too: each
        # would have its own of the maps' type, added up afterwards, which takes half as long again.
        def add(total: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            boxes, cotangent = chunk
            cotangent = cotangent.astype(of_type).repeat(SAMPLES, 1).repeat(SAMPLES, 2)
            for place, weight in corners(boxes):
                total = total.at[place].add(cotangent * weight[..., None])
            return total, None

        total, _ = jax.lax.scan(add, jnp.zeros(table.shape, of_type), (chunks, cotangents))
        return total.astype(table.dtype), jnp.zeros_like(chunks)

    gathered.defvjp(forward, backward)
    y = gathered(table, _in_chunks(boxes, chunk))
    return y.reshape(-1, *y.shape[2:])[: len(boxes)]
