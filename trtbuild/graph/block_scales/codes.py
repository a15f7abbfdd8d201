"""Weights in blocks as codes and scales, to the bit what ModelOpt's exporters write (modelopt/onnx/export)."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np

from trtbuild.core.formats import GREATEST
from trtbuild.core.tensor_file import Array

E2M1, E4M3 = GREATEST["fp4"], GREATEST["fp8"]
LEAST_E4M3 = 2.0**-9
"""The least number above zero: a scale that rounds to zero would make its whole block infinite."""
BIAS = 127
"""Of E8M0: a scale 2^e is stored as e + 127 (OCP Microscaling Formats 1.0, section 5.4.1)."""


class Nvfp4(NamedTuple):
    """A weight [out, in] in NVFP4."""

    codes: Array
    """[out, in] float4_e2m1fn."""
    scales: Array
    """[out, in / 16] float8_e4m3fn."""
    scale: Array
    """[] float32, of the whole tensor."""


class Mxfp8(NamedTuple):
    """A weight [out, in] in MXFP8."""

    codes: Array
    """[out, in] float8_e4m3fn."""
    exponents: Array
    """[out, in / 32] uint8: the scales' exponents + 127."""


def tensor_scale(amax: float) -> Array:
    """[] float32: the scale that lets E4M3 say the scale of the greatest block; 1 where all is zero."""
    scale = np.float32(amax) / np.float32(E2M1 * E4M3)
    return np.asarray(scale if scale > 0 else 1.0, np.float32)


def nvfp4(matrix: Array, amax: Array) -> Nvfp4:
    """A weight [out, in] by the greatest magnitudes of its blocks [out, in / 16], both float32."""
    scale = tensor_scale(float(amax.max()))
    exact = amax / (np.float32(E2M1) * scale)
    exact[exact == 0] = 1.0
    scales = np.clip(exact, LEAST_E4M3, E4M3).astype(ml_dtypes.float8_e4m3fn)
    whole = scales.astype(np.float32) * scale
    ratio = _blocks(matrix, amax) / whole[:, :, None]
    return Nvfp4(np.clip(ratio, -E2M1, E2M1).astype(ml_dtypes.float4_e2m1fn).reshape(matrix.shape), scales, scale)


def mxfp8(matrix: Array, amax: Array) -> Mxfp8:
    """A weight [out, in] by the greatest magnitudes of its blocks [out, in / 32], both float32."""
    exponents = exponents_of(amax)
    ratio = _blocks(matrix, amax) * np.exp2(-exponents)[:, :, None]
    codes = np.clip(ratio, -E4M3, E4M3).astype(ml_dtypes.float8_e4m3fn).reshape(matrix.shape)
    return Mxfp8(codes, (exponents + BIAS).astype(np.uint8))


def exponents_of(amax: Array) -> Array:
    """float32: the least e with amax <= 448 x 2^e, exactly; -127 for a block of zeros."""
    fraction, exponent = np.frexp(amax / np.float32(E4M3))  # = fraction x 2^exponent, 0.5 <= fraction < 1
    least = np.where(fraction == 0.5, exponent - 1, exponent)
    return np.clip(np.where(amax > 0, least, -BIAS), -BIAS, BIAS).astype(np.float32)


def _blocks(matrix: Array, amax: Array) -> Array:
    return matrix.reshape(*amax.shape, -1)
