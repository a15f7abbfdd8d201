"""Gemm with a quantized weight as MatMul and Add: the form in which kernels for quantized weights are matched.

ONNX Runtime has integer and block-wise products for a MatMul whose weight is [in, out]. A Gemm with a bias or a
transposed weight stays a float product that dequantizes its weight on every call: measured, six times slower in INT8.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import flag, is_plain, products, split_gemm
from trtbuild.graph.naming import Names


def split_quantized(model: ir.Model) -> int:
    """Rewrite, in place, each plain Gemm whose weight is a dequantized constant; returns how many.

    Codes [out, in] are stored transposed, and their scales with them; the numbers stay the same.
    """
    graph, rewritten = model.graph, 0
    names = Names({node.name or "" for node in graph})
    for module, nodes in products(graph).items():
        for node in nodes:
            if not is_plain(node) or (weight := _dequantizer(node)) is None:
                continue
            if flag(node, "transB"):
                _transpose(graph, weight)
            split_gemm(graph, node, names, module)
            rewritten += 1
    initializers.drop_unused(graph)
    return rewritten


def _dequantizer(gemm: ir.Node) -> ir.Node | None:
    """The DequantizeLinear of a constant matrix that only this node reads."""
    value = gemm.inputs[1]
    producer = value.producer() if value is not None else None
    if value is None or producer is None or producer.op_type != "DequantizeLinear" or len(value.uses()) != 1:
        return None
    codes, scale = constant(producer.inputs[0]), constant(producer.inputs[1])
    return producer if codes is not None and scale is not None and len(codes.shape) == 2 else None


def _transpose(graph: ir.Graph, dequantizer: ir.Node) -> None:
    for index, value in enumerate(dequantizer.inputs):
        tensor = constant(value)
        if value is not None and tensor is not None and len(tensor.shape) == 2:
            turned: Array = np.ascontiguousarray(tensor.numpy().T)
            dequantizer.replace_input_with(index, initializers.add(graph, f"{value.name}_transposed", turned))
    axis = dequantizer.attributes.get_int("axis", 1)
    dequantizer.attributes["axis"] = ir.AttrInt64("axis", 1 - axis % 2)
    codes, output = dequantizer.inputs[0], dequantizer.outputs[0]
    output.shape = codes.shape if codes is not None else None
