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
    """Rewrite activations that are quantized per tensor to INT8 with zero point 0, in place; returns how many.

    Those that meet no constant stay signed: attention multiplies two activations, and there two unsigned ones are no
    faster, or half as fast (measured). The function computed stays the same to the last bit.
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
        if readers and all(map(_feeds_computed_product, readers)):
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


def _feeds_computed_product(dequantizer: ir.Node) -> bool:
    """Whether a matrix product of two computed tensors is all that reads a DequantizeLinear."""
    products = [usage.node for usage in dequantizer.outputs[0].uses()]
    return bool(products) and all(
        product.op_type == "MatMul" and not any(map(_is_constant, product.inputs)) for product in products
    )


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer, dequantized or not."""
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        value = producer.inputs[0]
    return initializers.constant(value) is not None
