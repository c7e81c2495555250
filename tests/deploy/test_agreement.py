"""Differences between forms are found, counted and named, and padding is none."""

import numpy as np

from qsdt_jax.deploy.agreement import Comparison, compare

MASK = np.array([1, 1, 0])


def form(changed: dict[tuple[int, int], int], padding: int = 0):
    """Two time steps of a neuron "a" (3 positions) and of "b"; some counts of "b" are changed."""

    def run(images):
        b = np.zeros((6, 2), np.int8)
        for place, count in changed.items():
            b[place] = count
        b[4:] += padding
        return {"logits": images + padding * (1 - MASK[:, None])}, {"a": np.ones((6, 3)), "b": b}

    return run


def test_differences_are_counted_by_neuron_and_padding_is_left_out():
    forms = {
        "first": form({}),
        "same": form({}, padding=1),
        "other": form({(0, 0): 1, (3, 1): 2}),
        "logits": lambda images: ({"logits": images + 1}, form({})(images)[1]),
    }
    batch = {"image": np.zeros((3, 4)), "mask": MASK}
    found = compare(forms, [batch, batch])
    assert found == {
        "same": Comparison(counts=2 * 2 * 10, outputs={"logits": 2 * 8}),
        "other": Comparison(counts=40, outputs={"logits": 16}, different_counts={"b": 4}),
        "logits": Comparison(counts=40, outputs={"logits": 16}, different_outputs={"logits": 16}),
    }
