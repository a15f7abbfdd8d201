"""The arrays of a cache: empty ones, and what codes stand for."""

from __future__ import annotations

import numpy as np

from trtbuild.core.kv_cache import KvCache
from trtbuild.core.tensor_file import Array, Tensors

ELEMENTS = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int8": np.int8,
    "float8e4m3fn": np.uint8,
}
"""How NumPy holds each type of a cache. It has no FP8 and no BF16: those numbers travel as the bits they are."""


def empty(layout: KvCache, batch: int) -> Tensors:
    """The cache of `batch` rows before any token, by name in the order of the graph: zeros."""
    return {
        tensor.name: np.zeros((batch, *tensor.row_shape), ELEMENTS[tensor.dtype])
        for layer in range(layout.layers)
        for tensor in layout.tensors(layer)
    }


def size_bytes(cache: Tensors) -> int:
    """Bytes of a cache, scales included."""
    return sum(array.nbytes for array in cache.values())


def float16_bytes(layout: KvCache, batch: int) -> int:
    """Bytes that the cache of `batch` rows would take in FP16."""
    return batch * layout.layers * 2 * layout.kv_heads * layout.capacity * layout.head_dim * 2


_CODES = np.arange(256)
_EXPONENTS, _MANTISSAS = (_CODES >> 3) & 15, _CODES & 7
_MAGNITUDES = np.where(_EXPONENTS > 0, 1 + _MANTISSAS / 8, _MANTISSAS / 8) * 2.0 ** (np.maximum(_EXPONENTS, 1) - 7)
_MAGNITUDES[_CODES & 127 == 127] = np.nan
FP8_VALUES = (np.where(_CODES > 127, -1.0, 1.0) * _MAGNITUDES).astype(np.float32)
"""What each byte of FP8 E4M3FN stands for: 4 exponent bits of bias 7, 3 of mantissa, no infinity (OCP FP8, 2023)."""


def numbers(cache: Tensors, layout: KvCache, layer: int, part: str) -> Array:
    """Keys or values (`part`) of a layer in FP32, [batch, kv_heads, capacity, head_dim].

    Scales that the cache holds are applied. A static scale is a constant of the graph, one a head, and is not: those
    numbers are right up to a factor for each head.
    """
    name = f"cache.{layer}.{part}"
    codes = cache[name]
    if layout.dtypes[layer] == "float8e4m3fn":
        return np.asarray(FP8_VALUES[codes])
    if layout.dtypes[layer] == "bfloat16":  # the upper half of a float32
        return (codes.astype(np.uint32) << 16).view(np.float32)
    found = codes.astype(np.float32)
    return found * cache[f"{name}_scale"][..., None] if f"{name}_scale" in cache else found
