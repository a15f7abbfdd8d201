"""What the cache append computes, in NumPy. Every other form of it (ONNX function, kernel) must give the same bits.

Shapes: B rows, N new tokens, H key and value heads, S slots (the capacity), D elements of a head. Token t of row b goes
to slot lengths[b] + t; a token whose slot the cache does not have is dropped, and all other slots keep what they hold.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

LEAST_SCALE = np.finfo(np.float32).tiny
"""A head of zeros gets this scale (the least normal float32), so that no division is by zero."""


def append(cache: Array, new: Array, lengths: Array) -> Array:
    """The cache [B, H, S, D] (or its scales [B, H, S]) with the new tokens [B, H, N, D] (or [B, H, N])."""
    updated = cache.copy()
    capacity = cache.shape[2]
    for row, length in enumerate(lengths):
        for token in range(new.shape[2]):
            if 0 <= length + token < capacity:
                updated[row, :, length + token] = new[row, :, token].astype(cache.dtype)
    return updated


def int8_per_token(new: Array) -> tuple[Array, Array]:
    """INT8 codes [B, H, N, D] and float32 scales [B, H, N]: scale = amax / 127 over the elements of a head.

    Codes round half to even and are symmetric (-127 to 127). NaN counts as zero, an infinity as the greatest float32.
    All arithmetic is in float32.
    """
    finite = np.nan_to_num(new.astype(np.float32), nan=0.0)
    amax = np.abs(finite).max(-1)
    scale = np.maximum(amax / np.float32(127), LEAST_SCALE)
    return _int8(finite / scale[..., None]), scale


def int8_per_head(new: Array, scale: Array) -> Array:
    """INT8 codes [B, H, N, D] under given scales [H], float32; saturating at 127, NaN counts as zero."""
    return _int8(_ratio(new, scale))


def fp8_per_head(new: Array, scale: Array) -> Array:
    """E4M3 codes [B, H, N, D] under given scales [H], float32; saturating at 448, NaN and -0.0 count as zero.

    The clip comes before the rounding: a cast alone would turn what rounds beyond 448 into NaN.
    """
    return np.asarray(np.clip(_ratio(new, scale), -448, 448).astype(ml_dtypes.float8_e4m3fn))


def _ratio(new: Array, scale: Array) -> Array:
    x = new.astype(np.float32)
    x = np.where(np.isnan(x) | (x == 0), np.float32(0), x)
    with np.errstate(over="ignore"):  # an infinity saturates like any other number that is too great
        return np.asarray(x / scale[:, None, None])


def _int8(ratio: Array) -> Array:
    return np.clip(np.rint(ratio), -127, 127).astype(np.int8)
