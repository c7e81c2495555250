"""How much attention each place of an image receives, block by block.

Q-SDSA gives y_i = scale * sum over j of a_ij v_j, of each head. Its map a = q k^T is never formed, since
q (k^T v) is less work. Summed over heads h, time steps t and the places i that ask, place j receives

    r_j = sum over h, t, i of q_i . k_j = sum over h, t of (sum over i of q_i) . k_j,

the second form being linear in the places. Counts are never negative, so nothing cancels. There is no
softmax: a place that asks with more spikes gives more attention.

DSSA of SpikingResformer has a map of spikes, A (P, N), from N places to P pooled places whose values they
read, Z = A^T Y2. The pooled place p receives

    r_p = sum over h, t, l of A_pl.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Q, K, PRODUCT, PRODUCT_OUT = "q_neuron", "k_neuron", "attn_neuron", "out_neuron"


def received(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """r_j of Q-SDSA.

    Args:
      q, k: (T, ..., C) spike counts of one image; the axes between are its places.

    Returns:
      int64 (...), one number for each place.
    """
    asked = q.astype(np.int64).reshape(len(q), -1, q.shape[-1]).sum(1)  # (T, C): each channel has one head.
    return np.einsum("tc,t...c->...", asked, k.astype(np.int64))


def received_in_blocks(counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """r_j for each block with Q-SDSA.

    Args:
      counts: of each neuron by its name, (T, ...) of one image; "block3_0/attn/q_neuron" and its kin are
        (T, L, C) or (T, h, w, C).

    Returns:
      int64 (h, w) by name of the block, in the order of `counts`.
    """
    found = {}
    for name in counts:
        attention, _, neuron = name.rpartition("/")
        if neuron == Q:
            q, k, after = (counts[f"{attention}/{part}"] for part in (Q, K, PRODUCT))
            found[attention.rpartition("/")[0]] = received(q, k).reshape(after.shape[1:3])
    return found


def received_in_dssa(counts: Mapping[str, np.ndarray], patches: Sequence[int]) -> dict[str, np.ndarray]:
    """r_p for each DSSA of a SpikingResformer.

    Args:
      counts: of each neuron by its name, (T, ...) of one image; "stage1_dssa0/attn_neuron" is
        (T, heads, P, N), "stage1_dssa0/out_neuron" (T, H, W, C).
      patches: p of each stage, so that P = floor(H / p) floor(W / p).

    Returns:
      int64 (H / p, W / p) by name of the block, in the order of `counts`.
    """
    found = {}
    for name, spikes in counts.items():
        block, _, neuron = name.rpartition("/")
        if neuron == PRODUCT:
            patch = patches[int(block.partition("_")[0].removeprefix("stage")) - 1]
            height, width = counts[f"{block}/{PRODUCT_OUT}"].shape[1:3]
            grid = height // patch, width // patch
            found[block] = spikes.astype(np.int64).sum((0, 1, 3)).reshape(grid)
    return found


def even_shares(received: np.ndarray) -> np.ndarray:
    """Attention received as a multiple of an even share: 1 everywhere if all places receive the same.

    Where there is none at all, 0.
    """
    return received * (received.size / max(received.sum(), 1))
