"""How a graph is written for a target. Nothing else in the code asks for a backend's version."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.values import Value


class Dialect(Value):
    """The spelling of a quantized graph that a target understands."""

    name: str
    """The target in words: `ONNX Runtime`, `TensorRT 11`."""
    weights: Literal["codes", "quantize_dequantize"] = "codes"
    """Quantized weights as integer (FP8, packed INT4) initializers behind a DequantizeLinear, or as floats behind a
    QuantizeLinear and a DequantizeLinear."""


ONNX_RUNTIME = Dialect(name="ONNX Runtime")
TENSORRT_8 = Dialect(name="TensorRT 8.6", weights="quantize_dequantize")
"""8.6 fails to build INT8 initializers (measured)."""
TENSORRT = Dialect(name="TensorRT 10 and later")
