"""Caches made comparable, layer by layer: where a decoder begins to differ from its reference.

A head's keys (or values) of all tokens are one vector, brought to length one. A static scale is one factor for such a
vector and goes with its length, so caches with static, dynamic and no scales compare alike; and the cosine of a whole
layer is the mean of its heads'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.decoding.cache import numbers
from trtbuild.decoding.decoder import Decoder


def directions(decoder: Decoder) -> Tensors:
    """By the name of each tensor of the cache: float32 [rows, kv_heads, tokens, head_dim], as many tokens as the
    longest row holds, zero beyond a row's own length and for a head of zeros."""
    found = {}
    held = np.arange(int(decoder.lengths.max(initial=0))) < decoder.lengths[:, None]
    for layer in range(decoder.layout.layers):
        for part in ("key", "value"):
            heads = numbers(decoder.cache, decoder.layout, layer, part)[:, :, : held.shape[1]]
            heads = np.where(held[:, None, :, None], heads, 0.0)
            lengths = np.sqrt((heads.astype(np.float64) ** 2).sum(axis=(2, 3), keepdims=True))
            found[f"cache.{layer}.{part}"] = (heads / np.maximum(lengths, 1e-300)).astype(np.float32)
    return found


def least_cosine(caches: Sequence[Tensors], reference: Sequence[Tensors]) -> float:
    """The least cosine of a head of any row and layer, of what `directions` gave. A head that both hold only zeros of
    agrees."""
    return min(
        float(_cosines(mine[name], theirs[name]).min())
        for mine, theirs in zip(caches, reference, strict=True)
        for name in mine
        if name.startswith("cache.")
    )


def _cosines(mine: Array, theirs: Array) -> Array:
    products = (mine.astype(np.float64) * theirs).sum(axis=(2, 3))
    return np.where((mine == theirs).all(axis=(2, 3)), 1.0, products)
