"""Lint of one QuantizeLinear or DequantizeLinear: its types, its scale, its zero point, its axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph.element_types import FLOATS, Types, attribute_type, stored_type
from trtbuild.graph.lint_rules import LintFinding, finding

_FP8 = {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2FNUZ}
_HALVES = {ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT4E2M1}


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear or a DequantizeLinear, and what the graph knows of its inputs."""

    node: ir.Node
    types: Types

    @property
    def name(self) -> str:
        """What findings call it."""
        return self.node.name or (self.node.outputs[0].name or self.node.op_type)

    @property
    def data(self) -> ir.Value | None:
        """What it quantizes or dequantizes."""
        return self.node.inputs[0]

    @property
    def stored(self) -> ir.DataType | None:
        """The quantized type on its one side."""
        if self.node.op_type == "QuantizeLinear":
            return stored_type(self.node, self.types)
        return self.types.get(self.data) if self.data is not None else None

    @cached_property
    def scale(self) -> ir.TensorProtocol | None:
        """Its scale where that is a constant, also one behind a Cast."""
        return constant_behind(self.node.inputs[1])

    @property
    def of_constant(self) -> bool:
        """Whether its data is a weight: a constant, at most behind a QuantizeLinear or a Cast."""
        return constant_behind(self.data) is not None

    @property
    def scaled_while_running(self) -> bool:
        """Whether TensorRT's operator for blocks computes its data or what its scale comes from."""
        producer = self.data.producer() if self.data is not None else None
        return producer is not None and producer.op_type.endswith("DynamicQuantize")

    @property
    def axis(self) -> int:
        """The axis of its channels or blocks, counted from the front where the rank is known."""
        attribute = self.node.attributes.get("axis")
        axis = attribute.as_int() if attribute is not None else 1
        return axis + len(self.shape) if axis < 0 and self.shape is not None else axis

    @cached_property
    def shape(self) -> list[int | None] | None:
        """Lengths of its data; None where the rank is unknown, None inside where a length is."""
        shape = self.data.shape if self.data is not None else None
        return None if shape is None else [dim if isinstance(dim, int) else None for dim in shape]

    @property
    def block_size(self) -> int:
        """The attribute; 0 where there are no blocks."""
        attribute = self.node.attributes.get("block_size")
        return attribute.as_int() if attribute is not None else 0

    @property
    def blocked(self) -> bool:
        """Whether the scale has the data's rank, and more than one element."""
        scale = self.scale
        return bool(self.block_size) or (
            scale is not None and scale.size > 1 and self.shape is not None and len(self.shape) == len(scale.shape) > 1
        )


def constant_behind(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant that a value is, looking through Cast, Quantize, Dequantize and Identity. Reads no bytes."""
    while value is not None:
        if value.const_value is not None and not value.is_graph_input():
            return value.const_value
        producer = value.producer()
        if producer is None:
            return None
        if producer.op_type == "Constant" and (attribute := producer.attributes.get("value")) is not None:
            return attribute.as_tensor()
        if producer.op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear", "Identity"):
            return None
        value = producer.inputs[0]
    return None


def lint_pair(pair: Pair, opset: int) -> Iterator[LintFinding]:
    """Everything wrong with one node by itself."""
    yield from _types(pair, opset)
    yield from _zero_point(pair)
    if pair.scaled_while_running:
        return
    if pair.scale is None:
        yield finding(pair.name, "Q002", "its scale is computed, not a constant")
    else:
        yield from _scale(pair, pair.scale)
        yield from _layout(pair, pair.scale)


def _types(pair: Pair, opset: int) -> Iterator[LintFinding]:
    node, types = pair.node, pair.types
    data = types.get(pair.data) if pair.data is not None else None
    scale_type = types.get(node.inputs[1]) if node.inputs[1] is not None else None
    if node.op_type == "QuantizeLinear" and scale_type is not None and data in FLOATS and data != scale_type:
        yield finding(pair.name, "Q001", f"its data is {data} and its scale {scale_type}: one type is wanted")
    if node.op_type == "DequantizeLinear" and attribute_type(node, "output_dtype") not in (None, scale_type):
        # TensorRT 4832: such a node builds on one SM and not on another.
        given = attribute_type(node, "output_dtype")
        yield finding(pair.name, "Q001", f"its output is {given} and its scale {scale_type}: one type is wanted")
    if node.op_type == "DequantizeLinear" and data == ir.DataType.INT32:
        yield finding(pair.name, "Q013", "it dequantizes INT32, as a quantized bias does")
    needed, why = _least_opset(pair, scale_type)
    if opset < needed:
        yield finding(pair.name, "Q014", f"{why} needs opset {needed}, and the graph has {opset}")
    tensor = constant_behind(pair.data)
    if pair.stored in _HALVES and tensor is not None and tensor.size % 2:
        yield finding(pair.name, "Q015", f"its {tensor.size} 4-bit elements do not fill their bytes")


def _least_opset(pair: Pair, scale_type: ir.DataType | None) -> tuple[int, str]:
    """The oldest opset that has what the node uses [ONNX operator schemas], and what that is."""
    if scale_type == ir.DataType.FLOAT8E8M0:
        return 24, "a FLOAT8E8M0 scale"
    if pair.stored == ir.DataType.FLOAT4E2M1:
        return 23, "FLOAT4E2M1"
    if pair.stored in _HALVES or pair.block_size:
        return 21, "block_size" if pair.stored not in _HALVES else str(pair.stored)
    if pair.stored in _FP8 or scale_type in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return 19, str(pair.stored) if pair.stored in _FP8 else f"a scale of {scale_type}"
    if pair.scale is not None and pair.scale.size > 1:
        return 13, "a scale a channel"
    return 10, pair.node.op_type


def _zero_point(pair: Pair) -> Iterator[LintFinding]:
    value = pair.node.inputs[2] if len(pair.node.inputs) > 2 else None
    declared = attribute_type(pair.node, "output_dtype")
    if pair.node.op_type == "QuantizeLinear":
        unsigned = pair.stored in (ir.DataType.UINT8, ir.DataType.UINT4)
        if unsigned:
            said = "without a zero point, so ONNX gives UINT8" if value is None and declared is None else "unsigned"
            yield finding(pair.name, "Q011", f"its output is {pair.stored}: {said}")
        zero_type = pair.types.get(value) if value is not None else None
        if declared is not None and zero_type is not None and declared != zero_type:
            yield finding(pair.name, "Q016", f"its zero point is {zero_type} and its output_dtype {declared}")
    if value is None:
        return
    zero = constant_behind(value)
    if zero is None:
        yield finding(pair.name, "Q004", "its zero point is computed, not a constant")
    elif np.any(_floats(zero)):
        yield finding(pair.name, "Q004", "its zero point is not 0")


def _scale(pair: Pair, scale: ir.TensorProtocol) -> Iterator[LintFinding]:
    values = _floats(scale)
    if not np.all(np.isfinite(values)):
        yield finding(pair.name, "Q003", f"{int(np.sum(~np.isfinite(values)))} of its scales are not finite")
    elif np.any(values <= 0):
        yield finding(pair.name, "Q003", f"{int(np.sum(values <= 0))} of its {values.size} scales are not positive")


def _layout(pair: Pair, scale: ir.TensorProtocol) -> Iterator[LintFinding]:
    """Rank and length of the scale against data, axis and block [ONNX QuantizeLinear-21; TensorRT's importer]."""
    if scale.size <= 1:
        return
    if not pair.of_constant:
        gathered = _of_gathered_table(pair)
        many = f"it has {scale.size} scales, and its data is "
        yield finding(pair.name, "Q017" if gathered else "Q010", many + ("gathered" if gathered else "an activation"))
    if pair.shape is None:
        return
    lengths, rank = [int(dim) for dim in scale.shape.numpy()], len(pair.shape)
    if not 0 <= pair.axis < rank:
        yield finding(pair.name, "Q005", f"its axis {pair.axis} is none of its data's {rank}")
    elif pair.blocked:
        yield from _blocks(pair, lengths)
    elif len(lengths) != 1:
        yield finding(pair.name, "Q005", f"its scale has rank {len(lengths)}, its data rank {rank}")
    elif pair.shape[pair.axis] not in (None, lengths[0]):
        said = f"axis {pair.axis} of its data has {pair.shape[pair.axis]} channels, its scale {lengths[0]}"
        yield finding(pair.name, "Q005", said)


def _blocks(pair: Pair, lengths: list[int]) -> Iterator[LintFinding]:
    assert pair.shape is not None
    axis, length = pair.axis, pair.shape[pair.axis]
    pairs = enumerate(zip(pair.shape, lengths, strict=False))  # a scale of another rank is found just below
    others = [lengths_there for at, lengths_there in pairs if at != axis]
    if len(lengths) != len(pair.shape) or any(dim not in (None, mine) for dim, mine in others):
        shapes = f"its scale is {lengths} for data {pair.shape}"
        yield finding(pair.name, "Q005", f"{shapes}: they may differ along axis {axis} only")
    elif length is not None:
        size = pair.block_size or -(-length // lengths[axis])
        if length % size:
            yield finding(pair.name, "Q006", f"axis {axis} has {length} elements, not divisible by blocks of {size}")
        elif length // size != lengths[axis]:
            said = f"blocks of {size} of {length} elements make {length // size} scales, not {lengths[axis]}"
            yield finding(pair.name, "Q005", said)


def _of_gathered_table(pair: Pair) -> bool:
    producer = pair.data.producer() if pair.data is not None else None
    return producer is not None and producer.op_type == "Gather" and constant_behind(producer.inputs[0]) is not None


def _floats(tensor: ir.TensorProtocol) -> Array:
    return np.asarray(tensor.numpy()).astype(np.float32)
