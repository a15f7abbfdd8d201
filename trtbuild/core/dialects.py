"""How a graph is written for a target. Nothing else in the code asks for a backend's version.

                    TensorRT 11     TensorRT 10           TensorRT 8.6              ONNX Runtime
precision from      the graph       the graph             builder flags and Q/DQ    the graph
around quantized    FP16            FP16                  FP16, by a flag           FP32
weights             codes, then DQ  codes, then DQ        floats, then Q and DQ     codes, then DQ
newest opset        25              what its parser has   18                        21 and later
cache plugin        yes             from 10.9             no                        a function body
float cache         its own layers  the plugin            no                        a function body
"""

from __future__ import annotations

import re
from typing import Literal

from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import Format
from trtbuild.core.values import Value


class Dialect(Value):
    """The spelling of a quantized graph that a target understands."""

    name: str
    """The target in words: `ONNX Runtime`, `TensorRT 11`."""
    weights: Literal["codes", "quantize_dequantize"] = "codes"
    """Quantized weights as integer (FP8, packed INT4) initializers behind a DequantizeLinear, or as floats behind a
    QuantizeLinear and a DequantizeLinear."""
    typing: Literal["graph", "builder_flags"] = "graph"
    """Where precision comes from: the graph's own types alone, or flags that let the builder choose."""
    around_quantized: Literal["fp32", "fp16"] = "fp16"
    """What `precision: auto` means around quantized layers: the integer kernels of CPUs take FP32."""
    network_flags: tuple[str, ...] = ()
    """TensorRT's network creation flags, by name; their numbers changed between versions."""
    int64: bool = True
    """Whether an input or output may be INT64; where not, the engine takes and gives INT32."""
    opset: int | None = None
    """The newest opset that the target reads; None where no document at hand says."""
    native_cache: bool = False
    """Whether a decoder's float cache is written in ONNX 24's TensorScatter and Attention, which need no plugin
    (`trtbuild.graph.kv_cache.native`)."""
    formats: tuple[Format, ...] = ()
    """Formats that the newest minor version can run; `trtbuild.core.legality` narrows them by minor version and GPU."""


_INTEGER: tuple[Format, ...] = ("int8", "int8_sq")
_STRONGLY_TYPED: tuple[Format, ...] = (*_INTEGER, "w8a16", "fp8", "fp8_pc_pt", "int4", "int4_awq", "int4_gptq")

ONNX_RUNTIME = Dialect(
    name="ONNX Runtime",
    around_quantized="fp32",
    formats=(*_STRONGLY_TYPED, "fp8_block128", "w4a8_awq", "nvfp4", "mxfp8"),
)
TENSORRT_8 = Dialect(
    name="TensorRT 8.6",
    weights="quantize_dequantize",  # 8.6 fails to build INT8 initializers (measured)
    typing="builder_flags",
    network_flags=("EXPLICIT_BATCH",),
    int64=False,
    opset=18,
    formats=_INTEGER,
)
TENSORRT_10 = Dialect(
    name="TensorRT 10",
    network_flags=("STRONGLY_TYPED",),
    formats=(*_STRONGLY_TYPED, "nvfp4", "mxfp8"),
)
TENSORRT_11 = Dialect(
    name="TensorRT 11",
    opset=25,
    native_cache=True,
    formats=(*_STRONGLY_TYPED, "fp8_block128", "nvfp4", "mxfp8"),
)
TENSORRT = TENSORRT_11
"""What a TensorRT without a version is taken for."""

_BY_MAJOR = {8: TENSORRT_8, 10: TENSORRT_10, 11: TENSORRT_11}


def implied_backend(target: str | None) -> str | None:
    """The backend that a version alone tells: TensorRT counts from 8, ONNX Runtime has not left 1."""
    major = re.match(r"\d+", target or "")
    return None if major is None else "tensorrt" if int(major[0]) >= min(_BY_MAJOR) else "onnxruntime"


def dialect_of(backend: str, version: str | None = None) -> Dialect:
    """The dialect of a backend, of this version of it (`"8.6"`, `"10.13.2"`) where versions differ.

    Raises RecipeError for a backend without one, and for a TensorRT that trtbuild writes no graphs for.
    """
    if backend == "onnxruntime":
        return ONNX_RUNTIME
    if backend != "tensorrt":
        raise RecipeError(f"there is no backend {backend!r}", hint="backends: onnxruntime, tensorrt")
    if version is None:
        return TENSORRT
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    if not numbers:
        raise RecipeError(f"{version!r} is no version of TensorRT", hint='for example "10.3" or "11.4", in quotes')
    dialect = _BY_MAJOR.get(numbers[0])
    if numbers[0] > max(_BY_MAJOR):
        return TENSORRT
    if dialect is None or numbers < [8, 6]:
        raise RecipeError(
            f"trtbuild writes no graphs for TensorRT {version}",
            hint="it writes them for 8.6, 10 and 11: use one of those",
        )
    return dialect
