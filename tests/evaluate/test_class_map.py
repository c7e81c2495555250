"""A class for each pixel, against two interpolations in loops of NumPy."""

import jax
import numpy as np
import pytest

from qsdt_jax.evaluate import class_map as module
from qsdt_jax.evaluate.class_map import class_map


def interpolated(x: np.ndarray, after: tuple[int, int]) -> np.ndarray:
    """Bilinear without antialiasing, pixel by pixel, in float64."""
    result = np.empty((*after, x.shape[-1]))
    for i in range(after[0]):
        for j in range(after[1]):
            y, x_ = (
                min(max((k + 0.5) * before / new - 0.5, 0), before - 1)
                for k, before, new in zip((i, j), x.shape, after, strict=False)
            )
            top, left = int(y), int(x_)
            bottom, right = min(top + 1, x.shape[0] - 1), min(left + 1, x.shape[1] - 1)
            dy, dx = y - top, x_ - left
            upper = x[top, left] * (1 - dx) + x[top, right] * dx
            lower = x[bottom, left] * (1 - dx) + x[bottom, right] * dx
            result[i, j] = upper * (1 - dy) + lower * dy
    return result


@pytest.mark.parametrize("chunk", [2**24, 100])
@pytest.mark.parametrize(
    ("size", "original"),
    [((16, 24), (16, 24)), ((15, 21), (15, 21)), ((14, 23), (30, 37)), ((16, 17), (7, 9)), ((1, 1), (1, 1))],
)
def test_class_map(size, original, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    frame, classes = (32, 40), 5
    logits = np.random.default_rng(0).standard_normal((8, 12, classes)).astype(np.float32)
    found = jax.jit(class_map, static_argnums=3)(logits, np.array(size), np.array(original), frame)
    assert found.shape == frame
    valid = logits[: -(-size[0] // 2), : -(-size[1] // 2)].astype(np.float64)
    scores = interpolated(interpolated(valid, size), original)
    expected = scores.argmax(-1)
    got = np.asarray(found)[: original[0], : original[1]]
    # Where two classes are equally likely to rounding, either is right.
    best = np.sort(scores, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(got[clear], expected[clear])
