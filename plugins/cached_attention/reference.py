"""What attention over the cache computes, in NumPy with FP64: the oracle for the ONNX function and the kernels.

Shapes: B rows, N new tokens, Hq query heads, H key and value heads, S slots (the capacity), D elements of a head. Token
t of row b has position p = lengths[b] + t and sees the slots from p - window + 1 to p that the cache has; one that sees
none gets zeros. Query head h reads key head h // (Hq / H). The new tokens' keys and values are in the cache already.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

UNLIMITED = 2**31 - 1
"""A window that hides nothing."""


def attend(query: Array, keys: Array, values: Array, lengths: Array, scale: float, window: int = UNLIMITED) -> Array:
    """softmax(scale Q Kᵀ) V of each token over what it sees: query [B, Hq, N, D], keys and values [B, H, S, D].

    Returns float64 [B, Hq, N, D]. Slots that a token does not see are not read, whatever they hold.
    """
    rows, heads, tokens, _ = query.shape
    group, capacity = heads // keys.shape[1], keys.shape[2]
    output = np.zeros(query.shape, np.float64)
    for row in range(rows):
        for token in range(tokens):
            position = int(lengths[row]) + token
            seen = slice(max(position - window + 1, 0), max(min(position + 1, capacity), 0))
            if seen.start >= seen.stop:
                continue
            for head in range(heads):
                k = keys[row, head // group, seen].astype(np.float64)
                v = values[row, head // group, seen].astype(np.float64)
                scores = scale * (k @ query[row, head, token].astype(np.float64))
                weights = np.exp(scores - scores.max())
                output[row, head, token] = weights @ v / weights.sum()
    return output


def per_token(codes: Array, scale: Array) -> Array:
    """What INT8 codes [B, H, S, D] with scales [B, H, S] stand for, float64."""
    return codes.astype(np.float64) * scale.astype(np.float64)[..., None]


def per_head(codes: Array, scale: Array) -> Array:
    """What INT8 or E4M3 codes [B, H, S, D] with scales [H] stand for, float64."""
    return codes.astype(np.float64) * scale.astype(np.float64)[:, None, None]
