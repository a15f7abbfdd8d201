"""The least time that a model's linear layers can take: what must be read, and what must be multiplied.

    memory   bytes of the weights / bandwidth
    compute  2 x weights x rows / peak rate
    bound    the longer of the two

(Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009.) Activations, attention and launches are left out, so real
engines are slower, and gains smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from trtbuild.core.formats import FORMATS, Format, NumberType
from trtbuild.core.hardware import Gpu
from trtbuild.core.tensors import Shapes
from trtbuild.pipeline.parameters import Parameters

_BITS: dict[NumberType, int] = {"int8": 8, "fp8": 8, "int4": 4, "fp4": 4}
_DEQUANTIZED = ("w8a16", "fp8_block128")
"""Formats whose weights TensorRT may dequantize before the product: no fused one is documented."""
_DENSE_BYTES = 2.0
_PATCH = 16
"""Pixels along the side of what a model takes for one row: a vision transformer's patch, a late feature map's cell."""


@dataclass(frozen=True)
class Bound:
    """A lower bound and what sets it."""

    ms: float
    by: Literal["memory", "compute"]


def bound(form: Format | None, size: Parameters, rows: int, gpu: Gpu, block_size: int = 128) -> Bound:
    """The bound of one call in a format, or in 16 bits for None. Where the GPU does not multiply the format's
    activations, it is taken to multiply in 16 bits."""
    activation = FORMATS[form].activation if form else None
    fused = form is not None and form not in _DEQUANTIZED
    each = bytes_each(form, block_size) if form and fused else _DENSE_BYTES
    memory_ms = size.multiplied * each / (gpu.bandwidth_gb_s * 1e6)
    rate = gpu.peak_tflops(activation) or gpu.fp16_tflops
    compute_ms = 2 * size.multiplied * rows / (rate * 1e9)
    return Bound(memory_ms, "memory") if memory_ms >= compute_ms else Bound(compute_ms, "compute")


def bytes_each(form: Format, block_size: int = 128) -> float:
    """Bytes of one weight with its share of a 16-bit scale; of an 8-bit one in the formats that fix their blocks."""
    traits = FORMATS[form]
    stored = _BITS[traits.weight] / 8
    if traits.granularity != "block":
        return stored
    return stored + (1 / traits.block if traits.block else 2 / block_size)


def weight_bytes(form: Format, size: Parameters, block_size: int = 128) -> float:
    """Bytes of all weights: matrices in the format, embedding tables in 16 bits."""
    return size.multiplied * bytes_each(form, block_size) + size.gathered * _DENSE_BYTES


def dense_bytes(size: Parameters) -> float:
    """Bytes of all weights in 16 bits."""
    return (size.multiplied + size.gathered) * _DENSE_BYTES


def rows_at_opt(shapes: Shapes) -> tuple[int, str]:
    """How many rows each matrix is multiplied with in one call at the `opt` shapes, and how that was counted."""
    name, lengths = max(shapes.at("opt").items(), key=lambda entry: prod(entry[1]))
    if shapes.inputs[name].dtype.startswith(("int", "uint", "bool")):
        return prod(lengths), f"every element of {name} {list(lengths)} is a row"
    if len(lengths) >= 4:
        cells = prod(max(1, length // _PATCH) for length in lengths[2:])
        return lengths[0] * cells, f"{name} {list(lengths)} taken in cells of {_PATCH} along each spatial axis"
    return prod(lengths[:-1]) if len(lengths) > 1 else 1, f"the last axis of {name} {list(lengths)} is a row"
