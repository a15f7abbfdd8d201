"""Symmetric INT8 activations written as UINT8 around 128: the same numbers, in the form that x86 multiplies fast.

AVX2 and AVX-512 VNNI multiply unsigned activations with signed weights, so ONNX Runtime rewrites signed ones itself,
but only where a QuantizeLinear has a single reader: query, key and value, which share one, would silently run in FP32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.graph import initializers

MIDDLE = 128
"""The unsigned code of zero: x / scale + 128, clipped to [0, 255], is the signed code + 128."""


def use_unsigned_activations(model: ir.Model) -> int:
    """Rewrite every activation that is quantized per tensor to INT8 with zero point 0, in place; returns how many.

    The function computed stays the same to the last bit.
    """
    graph = model.graph
    rewritten = 0
    for node in list(graph):
        if node.op_type != "QuantizeLinear" or not _is_signed_zero(node):
            continue
        stored = node.outputs[0]
        readers = [usage.node for usage in stored.uses()]
        if not all(reader.op_type == "DequantizeLinear" and _is_signed_zero(reader) for reader in readers):
            continue
        middle = initializers.add(graph, f"{node.name}.zero_point", np.array(MIDDLE, np.uint8))
        for user in (node, *readers):
            user.replace_input_with(2, middle)
        stored.type = ir.TensorType(ir.DataType.UINT8)
        rewritten += 1
    initializers.drop_unused(graph)
    return rewritten


def _is_signed_zero(node: ir.Node) -> bool:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    value = initializers.constant(zero) if zero is not None else None
    return value is not None and value.dtype == ir.DataType.INT8 and value.size == 1 and not value.numpy().any()
