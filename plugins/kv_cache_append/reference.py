"""What the cache append computes, in NumPy. Every other form of it (ONNX function, kernel) must give the same bits.

Shapes: B rows, N new tokens, H key and value heads, S slots (the capacity), D elements of a head. Token t of row b goes
to slot lengths[b] + t; a token whose slot the cache does not have is dropped, and all other slots keep what they hold.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

LEAST_SCALE = np.float32(2**-24)
"""The least float16 above zero, a subnormal one. A head of zeros gets it, so that no division is by zero."""

GREATEST = np.float32(127 * 65504)
"""The greatest magnitude that INT8 with a scale per token can say: beyond it, infinities included, values saturate."""


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
    """INT8 codes [B, H, N, D] and float16 scales [B, H, N]: amax / 127 over a head's elements, rounded up to float16.

    Rounded up, a scale never clips the element that it was made of. It may be subnormal: then codes are coarse, and
    still no farther from the truth than float16 itself. Codes are the elements divided by the rounded scale, half to
    even. NaN counts as zero, what exceeds `GREATEST` as that. All arithmetic is in float32.
    """
    finite = np.clip(_without_nan(new), -GREATEST, GREATEST)
    scale = _float16_from(np.maximum(np.abs(finite).max(-1) / np.float32(127), LEAST_SCALE))
    return _int8(finite / scale.astype(np.float32)[..., None]), scale


def int8_per_head(new: Array, scale: Array) -> Array:
    """INT8 codes [B, H, N, D] under given scales [H], float32; saturating at 127, NaN counts as zero."""
    return _int8(_ratio(new, scale))


def fp8_per_head(new: Array, scale: Array) -> Array:
    """E4M3 codes [B, H, N, D] under given scales [H], float32; saturating at 448, NaN and -0.0 count as zero.

    The clip comes before the rounding: a cast alone would turn what rounds beyond 448 into NaN.
    """
    return np.asarray(np.clip(_ratio(new, scale), -448, 448).astype(ml_dtypes.float8_e4m3fn))


def _ratio(new: Array, scale: Array) -> Array:
    with np.errstate(over="ignore"):  # an infinity saturates like any other number that is too great
        return np.asarray(_without_nan(new) / scale[:, None, None])


def _without_nan(new: Array) -> Array:
    """In float32, with zero for NaN and for -0.0."""
    x = new.astype(np.float32)
    return np.where(np.isnan(x) | (x == 0), np.float32(0), x)


def _float16_from(x: Array) -> Array:
    """The least float16 that is not less than x, float32."""
    nearest = x.astype(np.float16)
    return np.where(nearest.astype(np.float32) < x, np.nextafter(nearest, np.finfo(np.float16).max), nearest)


def _int8(ratio: Array) -> Array:
    return np.clip(np.rint(ratio), -127, 127).astype(np.int8)
