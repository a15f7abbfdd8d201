"""Two caches after the same tokens, layer by layer: where a decoder begins to differ from its reference."""

from __future__ import annotations

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.tensor_file import Array
from trtbuild.core.values import Result
from trtbuild.decoding.cache import numbers
from trtbuild.decoding.decoder import Decoder


class LayerCacheAgreement(Result):
    """One layer's cache against the reference's, over the tokens that both hold.

    A head's keys (or values) of all tokens are one vector. A static scale is one factor for such a vector, which a
    cosine does not see, so caches with static, dynamic and no scales compare alike.
    """

    layer: int
    key_cosine: float
    """Mean over rows and heads."""
    key_cosine_min: float
    value_cosine: float
    value_cosine_min: float


def compare_caches(decoder: Decoder, reference: Decoder) -> list[LayerCacheAgreement]:
    """The caches of two decoders that have read the same. Raises DataError where their rows, lengths or shapes differ.

    Rows without tokens do not count.
    """
    if not np.array_equal(decoder.lengths, reference.lengths):
        raise DataError(f"the caches hold {decoder.lengths} and {reference.lengths} tokens: they cannot be compared")
    mine, theirs = decoder.layout, reference.layout
    if (mine.layers, mine.kv_heads, mine.head_dim) != (theirs.layers, theirs.kv_heads, theirs.head_dim):
        raise DataError("the caches have other layers, heads or head sizes: they cannot be compared")
    if not decoder.lengths.any():
        raise DataError("both caches are empty", hint="advance the decoders first")
    return [_layer(decoder, reference, layer) for layer in range(mine.layers)]


def _layer(decoder: Decoder, reference: Decoder, layer: int) -> LayerCacheAgreement:
    keys, values = (_cosines(decoder, reference, layer, part) for part in ("key", "value"))
    return LayerCacheAgreement(
        layer=layer,
        key_cosine=float(keys.mean()),
        key_cosine_min=float(keys.min()),
        value_cosine=float(values.mean()),
        value_cosine_min=float(values.min()),
    )


def _cosines(decoder: Decoder, reference: Decoder, layer: int, part: str) -> Array:
    mine = numbers(decoder.cache, decoder.layout, layer, part)
    theirs = numbers(reference.cache, reference.layout, layer, part)
    found = []
    for row, length in enumerate(decoder.lengths):
        if length:
            first, second = (each[row, :, :length].astype(np.float64) for each in (mine, theirs))
            products = (first * second).sum(axis=(1, 2))
            lengths = np.sqrt((first**2).sum(axis=(1, 2)) * (second**2).sum(axis=(1, 2)))
            equal = (first == second).all(axis=(1, 2))  # two heads of zeros agree
            found.append(np.where(lengths > 0, products / np.maximum(lengths, 1e-300), equal))
    return np.concatenate(found)
