"""Opsets: the oldest that spells a format's nodes, and the newest that a target reads."""

from __future__ import annotations

from trtbuild.core.formats import FORMATS, Format


def least_opset(form: Format, *, precision: str = "fp32") -> int:
    """The oldest opset that spells the format's Q/DQ nodes around floats of `precision`."""
    traits = FORMATS[form]
    opset = 13 if traits.granularity == "channel" else 10  # axis [ONNX QuantizeLinear-13]
    if precision != "fp32" or "fp8" in (traits.weight, traits.activation):
        opset = 19  # 16-bit scales, float8e4m3fn [ONNX QuantizeLinear-19]
    if traits.granularity in ("block", "tile"):
        opset = 21  # block_size, int4 [ONNX QuantizeLinear-21]
    if traits.weight == "fp4":
        opset = 23  # float4e2m1 [ONNX QuantizeLinear-23]
    return opset


def greatest_opset(tensorrt: tuple[int, ...]) -> int | None:
    """The newest opset that this TensorRT's parser reads; None where no document at hand says."""
    if tensorrt < (9,):
        return 18  # measured: 8.6 reads what 17 and 18 spell
    return 25 if tensorrt >= (11,) else None  # NVIDIA's ONNX opset guide for 11
