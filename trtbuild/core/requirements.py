"""What each format needs of TensorRT and a GPU, and which formats are most like it: the tables of legality.

Each entry names its source: [doc] NVIDIA's documentation, [hdr] TensorRT's public headers and parser source, [mo]
Model-Optimizer's source and support matrix, [thread] a GitHub thread, [run] measured for trtbuild on the real library,
[known] common knowledge that no document at hand confirms.
"""

from __future__ import annotations

from trtbuild.core.formats import Format

TURING, AMPERE, ADA, HOPPER, BLACKWELL = (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)

LEAST_TENSORRT: dict[Format, tuple[int, ...]] = {
    "int8": (8, 6),  # [run] 8.6 takes float weights behind Q and DQ, 10 and later INT8 initializers
    "int8_sq": (8, 6),
    "w8a16": (10, 0),  # [run] 8.6 fails to build a DequantizeLinear of an INT8 initializer
    "fp8": (10, 0),  # [known] 8.6 has the type and no kernels to rely on; Q/DQ strongly typed from 10.0 [hdr]
    "fp8_pc_pt": (10, 6),  # [doc] 10.6 notes: FP8 weight scales per channel
    "fp8_block128": (11, 0),  # [doc] 11: block_shape lists FP8
    "int4": (10, 0),  # [hdr] CHANGELOG: INT4 Q/DQ
    "int4_awq": (10, 0),
    "int4_gptq": (10, 0),
    "w4a8_awq": (10, 0),
    "nvfp4": (10, 8),  # [doc] 10.8 notes: FP4 by explicit quantization; its demoDiffusion builds such an ONNX of Flux
    "mxfp8": (10, 12),  # [hdr] CHANGELOG: TRT_MXFP8 operators in the parser
}

LEAST_SM: dict[Format, tuple[int, int]] = {
    "int8": TURING,  # [known] tensor cores of 7.5 on; TensorRT 11.4 still takes 7.5
    "int8_sq": TURING,
    "w8a16": TURING,
    "fp8": ADA,  # [mo] support matrix
    "fp8_pc_pt": ADA,
    "fp8_block128": ADA,
    "int4": AMPERE,  # [mo] support matrix
    "int4_awq": AMPERE,
    "int4_gptq": AMPERE,
    "w4a8_awq": ADA,
    "nvfp4": BLACKWELL,  # [mo] support matrix
    "mxfp8": BLACKWELL,  # [known]
}

TORCH_ONLY: dict[Format, str] = {
    "int4_gptq": "GPTQ updates a layer's weights column by column, which ModelOpt does on PyTorch models only",
    "w4a8_awq": "ModelOpt has INT4 weights with FP8 activations for PyTorch models only",
    "nvfp4": "ModelOpt calibrates FP4 for PyTorch models only",
    "mxfp8": "ModelOpt calibrates MXFP8 for PyTorch models only",
}
"""Formats that need the PyTorch model, each with the reason: an ONNX source cannot have them [mo] onnx/quantization."""

NEAREST: dict[Format, tuple[Format, ...]] = {
    "int8": ("int8_sq", "fp8", "w8a16"),
    "int8_sq": ("int8", "fp8", "w8a16"),
    "fp8": ("int8_sq", "int8", "w8a16"),
    "fp8_pc_pt": ("fp8", "int8_sq", "int8", "w8a16"),
    "fp8_block128": ("fp8", "w8a16", "int8_sq", "int8"),
    "int4": ("w8a16", "int8_sq", "int8", "fp8"),
    "int4_awq": ("int4", "w8a16", "int8_sq", "int8", "fp8"),
    "int4_gptq": ("int4", "w8a16", "int8_sq", "int8", "fp8"),
    "w8a16": ("int8_sq", "int8", "fp8"),
    "w4a8_awq": ("int4_awq", "fp8", "w8a16", "int8_sq", "int8"),
    "nvfp4": ("fp8", "int4_awq", "int8_sq", "int8"),
    "mxfp8": ("fp8", "int8_sq", "int8", "w8a16"),
}
"""For each format the similar ones, most similar first."""
