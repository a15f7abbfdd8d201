"""TensorRT's operators for scales in blocks: their names and attributes, and what they compute in standard ONNX.

The names and attributes are those that TensorRT's parser imports (onnx-tensorrt, onnxOpImporters.cpp) and ModelOpt
exports (modelopt/torch/quantization/export_onnx.py). TensorRT prefers its own importer to a function body of the same
name; everything else, shape inference and ONNX's reference included, reads the body.

Arithmetic, for blocks of neighbours along the last axis:

* NVFP4 (NVIDIA, "Introducing NVFP4", 2025): the block's scale is its greatest magnitude / 6 / the tensor's scale, in
  E4M3 and never below its least number 2^-9; the codes are x / (block's scale x tensor's scale) in E2M1.
* MXFP8 (OCP Microscaling Formats 1.0, section 6.3, with the exponent rounded up as NVIDIA does): the block's scale is
  the least power of two that brings its greatest magnitude to 448 or less, stored as its exponent + 127 (E8M0 in a
  UINT8, which TensorRT reads as E8M0); the codes are x / scale in E4M3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx.parser
import onnx_ir as ir

DOMAIN = "trt"
VERSION = 1
_E4M3, _E2M1, _UINT8 = (int(kind) for kind in (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1, ir.DataType.UINT8))


@dataclass(frozen=True)
class Operator:
    """One operator of TensorRT's parser, and its body in ONNX's text format."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    body: str

    def node(self, name: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Node:
        """A node with every attribute; blocks run along the last axis."""
        given = {"axis": -1, **attributes}
        assert given.keys() == set(self.attributes)
        return ir.node(
            self.name,
            inputs,
            attributes=given,
            domain=DOMAIN,
            version=VERSION,
            num_outputs=len(self.outputs),
            name=name,
        )

    def function(self, opset: int) -> onnx.FunctionProto:
        """The body as a function, for this version of the standard operators."""
        return onnx.parser.parse_function(
            f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
            f"{self.name} <{', '.join(self.attributes)}> ({', '.join(self.inputs)}) => ({', '.join(self.outputs)})"
            f"{{ {self.body} }}"
        )


def _in_blocks(size: int) -> str:
    """`blocks` [..., blocks, size] and `amax` [..., blocks, 1] of `x`, whose `shape` is kept."""
    return f"""
  last = Constant <value_ints = [-1]> ()
  two = Constant <value_float = 2.0> ()
  bias = Constant <value_float = 127.0> ()
  floats = Cast <to = 1> (x)
  shape = Shape (floats)
  leading = Shape <start = 0, end = -1> (floats)
  block = Constant <value_ints = [-1, {size}]> ()
  in_blocks = Concat <axis = 0> (leading, block)
  blocks = Reshape (floats, in_blocks)
  magnitudes = Abs (blocks)
  amax = ReduceMax <keepdims = 1> (magnitudes, last)
"""


_FP4 = f"""
  six = Constant <value_float = 6.0> ()
  minus_six = Constant <value_float = -6.0> ()
  least = Constant <value_float = 0.001953125> ()
  greatest = Constant <value_float = 448.0> ()
  unit = Mul (six, scale)
  exact = Div (amax, unit)
  clipped = Clip (exact, least, greatest)
  of_blocks = Squeeze (clipped, last)
  scales = Cast <to = {_E4M3}> (of_blocks)
  rounded = Cast <to = 1> (scales)
  apart = Unsqueeze (rounded, last)
  whole = Mul (apart, scale)
  ratio = Div (blocks, whole)
  said = Clip (ratio, minus_six, six)
  together = Reshape (said, shape)
  codes = Cast <to = {_E2M1}> (together)
"""

# ONNX has no exact base-2 logarithm below opset 24: the guess is off by one at most, and two comparisons put it right.
_MX = f"""
  greatest = Constant <value_float = 448.0> ()
  lowest = Constant <value_float = -448.0> ()
  ln2 = Constant <value_float = 0.6931472> ()
  one = Constant <value_float = 1.0> ()
  first = Constant <value_float = -126.0> ()
  end = Constant <value_float = 127.0> ()
  tiny = Constant <value_float = 1.1754944e-38> ()
  exact = Div (amax, greatest)
  wanted = Max (exact, tiny)
  natural = Log (wanted)
  binary = Div (natural, ln2)
  guess = Ceil (binary)
  reached = Pow (two, guess)
  is_short = Less (reached, wanted)
  short = Cast <to = 1> (is_short)
  enough = Add (guess, short)
  before = Sub (enough, one)
  half = Pow (two, before)
  is_wide = GreaterOrEqual (half, wanted)
  wide = Cast <to = 1> (is_wide)
  least = Sub (enough, wide)
  exponent = Clip (least, first, end)
  stored = Add (exponent, bias)
  of_blocks = Squeeze (stored, last)
  scales = Cast <to = {_UINT8}> (of_blocks)
  scale = Pow (two, exponent)
  ratio = Div (blocks, scale)
  said = Clip (ratio, lowest, greatest)
  together = Reshape (said, shape)
  codes = Cast <to = {_E4M3}> (together)
"""

_MX_BACK = """
  biased = Cast <to = 1> (scales)
  exponent = Sub (biased, bias)
  factor = Pow (two, exponent)
  apart = Unsqueeze (factor, last)
  scaled = Mul (blocks, apart)
  together = Reshape (scaled, shape)
  y = Cast <to: int = @output_dtype> (together)
"""

FP4_QUANTIZE = Operator(
    "TRT_FP4DynamicQuantize",
    ("x", "scale"),
    ("codes", "scales"),
    ("axis", "block_size", "scale_type"),
    _in_blocks(16) + _FP4,
)
"""`scale` [] float32 is the tensor's, an initializer; gives E2M1 codes and E4M3 scales [..., blocks]."""
MXFP8_QUANTIZE = Operator(
    "TRT_MXFP8DynamicQuantize",
    ("x",),
    ("codes", "scales"),
    ("axis", "block_size", "output_dtype"),
    _in_blocks(32) + _MX,
)
"""Gives E4M3 codes and the exponents of their scales [..., blocks], UINT8."""
MXFP8_DEQUANTIZE = Operator(
    "TRT_MXFP8DequantizeLinear",
    ("x", "scales"),
    ("y",),
    ("axis", "block_size", "output_dtype"),
    _in_blocks(32) + _MX_BACK,
)
"""Codes times 2^(scales - 127), in the type `output_dtype`."""

OPERATORS = {operator.name: operator for operator in (FP4_QUANTIZE, MXFP8_QUANTIZE, MXFP8_DEQUANTIZE)}


def define(model: ir.Model) -> None:
    """Give the model the bodies of these operators that it uses, in place."""
    used = {node.op_type for node in model.graph if node.domain == DOMAIN and node.op_type in OPERATORS}
    for name in sorted(used):
        function = ir.from_proto(_without_unused(OPERATORS[name].function(model.opset_imports[""])))
        model.functions[function.identifier()] = function
    if used:
        model.opset_imports[DOMAIN] = VERSION


def _without_unused(function: onnx.FunctionProto) -> onnx.FunctionProto:
    """The function without what this operator has no use for: bodies share their first lines."""
    needed, kept = set(function.output), []
    for node in reversed(function.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del function.node[:]
    function.node.extend(reversed(kept))
    return function
