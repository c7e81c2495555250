"""A split is scored from sums that add up and from rows that are gathered without padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.devices import AXIS
from qsdt_jax.evaluate.split import MASK, Scored, evaluate_split, over_devices

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)
MASKS = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], np.int32)


def scored(values: jax.Array, mask: jax.Array) -> Scored:
    """Their sum, and each with its square."""
    rows = {"value": values, "pair": values[:, None] ** np.array([1, 2])}
    return over_devices(Scored(sums={"total": (values * mask).sum()}, rows=rows), mask)


def batches() -> list[dict[str, np.ndarray]]:
    return [{"image": values, MASK: mask} for values, mask in zip(VALUES, MASKS, strict=True)]


def test_rows_come_in_order_and_without_padding():
    def summarize(total: Scored) -> dict[str, float]:
        assert sorted(total.rows) == ["pair", "value"]
        np.testing.assert_array_equal(total.rows["value"], np.arange(10))
        np.testing.assert_array_equal(total.rows["pair"][:, 1], np.arange(10.0) ** 2)
        return {"median": float(np.median(total.rows["value"])), "total": float(total.sums["total"])}

    found = evaluate_split(lambda batch: scored(batch["image"], batch[MASK]), batches(), summarize)
    assert found == {"median": 4.5, "total": 45.0}


def test_on_each_device_are_the_rows_of_all():
    """As a pmapped step sees it: two devices with two rows of each batch, one after the other."""
    step = jax.vmap(scored, axis_name=AXIS)
    for values, mask in zip(VALUES, MASKS, strict=True):
        found = step(values.reshape(2, 2), mask.reshape(2, 2))
        for device in range(2):
            np.testing.assert_array_equal(found.rows["value"][device], values)
            np.testing.assert_array_equal(found.rows[MASK][device], mask)
            assert found.sums["total"][device] == (values * mask).sum()


def test_sums_alone_gather_nothing():
    mask = np.ones(4, np.int32)
    assert over_devices(Scored(sums={"total": np.float32(1)}), mask).rows == {}


def test_rows_that_are_called_as_the_mask_are_refused():
    with pytest.raises(ValueError, match="'mask' tells rows from padding"):
        over_devices(Scored(rows={MASK: np.ones(3)}), jnp.ones(3))
