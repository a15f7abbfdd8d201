"""Q/DQ read back out of a quantized graph: which modules are quantized, in which format, with which numbers.

The inverse of insertion, for graphs that another tool quantized.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from trtbuild.core.formats import GREATEST, Format, NumberType
from trtbuild.core.quantization import ModuleQuantization
from trtbuild.core.tensor_file import Array
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import output_axis, products

_TYPES: dict[ir.DataType, NumberType] = {
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",  # symmetric around 128: the same numbers as INT8 around 0
    ir.DataType.FLOAT8E4M3FN: "fp8",
    ir.DataType.INT4: "int4",
}
_FORMATS: dict[tuple[NumberType, str, NumberType | None], Format] = {
    ("int8", "tensor", "int8"): "int8",
    ("int8", "channel", "int8"): "int8",
    ("int8", "tensor", None): "w8a16",
    ("int8", "channel", None): "w8a16",
    ("fp8", "tensor", "fp8"): "fp8",
    ("fp8", "channel", "fp8"): "fp8_pc_pt",
    ("fp8", "block", None): "fp8_block128",
    ("int4", "block", None): "int4",
    ("int4", "block", "fp8"): "w4a8_awq",
}
"""By the weight's type and granularity and the activation's type. Algorithms leave no trace in a graph: AWQ reads as
`int4`, and SmoothQuant as `int8`."""

_QUANTIZES = re.compile(r"(TRT_\w*?)?(Dynamic)?(Quantize|Dequantize)(Linear)?")
"""Operators that quantize or dequantize: ONNX's, and those of TensorRT's parser."""


@dataclass(frozen=True)
class Reading:
    """What a quantized graph says."""

    modules: dict[str, ModuleQuantization] = field(default_factory=dict)
    """By module path, as `products` names them."""
    unread: dict[str, str] = field(default_factory=dict)
    """Names of QuantizeLinear and DequantizeLinear nodes that belong to no such module, each with the reason."""


def is_quantized(model: ir.Model) -> bool:
    """Whether the graph holds nodes that quantize or dequantize, standard ones or TensorRT's own."""
    return any(_QUANTIZES.fullmatch(node.op_type) for node in model.graph.all_nodes())


def read(model: ir.Model, modules: Mapping[str, Collection[str]] | None = None) -> Reading:
    """The quantization of every product with a constant weight: scales times the type's greatest number are amax.

    `modules` names the nodes of each module, for a graph whose names no longer tell. A module whose calls read
    different inputs gets the greatest `input_amax` of them.
    """
    reading, used = Reading(), set[ir.Node]()
    reasons: dict[ir.Node, str] = {}
    groups = products(model.graph)
    if modules is not None:
        nodes_by_name = {node.name: node for nodes in groups.values() for node in nodes}
        groups = {
            module: [nodes_by_name[name] for name in names if name in nodes_by_name]
            for module, names in modules.items()
        }
    for module, nodes in groups.items():
        calls = []
        for node in nodes:
            weight, activation = _behind(node, 1), _behind(node, 0)
            pair = {member for scaled in (weight, activation) if scaled is not None for member in scaled.nodes}
            numbers = _numbers(node, weight, activation)
            if isinstance(numbers, str):
                reasons |= dict.fromkeys(pair, f"{module}: {numbers}")
            else:
                used |= pair
                calls.append(numbers)
        if calls:
            inputs = [numbers.input_amax for numbers in calls if numbers.input_amax is not None]
            reading.modules[module] = ModuleQuantization(
                format=calls[0].format,
                weight_amax=calls[0].weight_amax,
                input_amax=np.max(np.stack(inputs), axis=0) if inputs else None,
                block_size=calls[0].block_size,
            )
    for node in model.graph:
        if _QUANTIZES.fullmatch(node.op_type) and node not in used:
            reading.unread[node.name or ""] = reasons.get(node, "no product with a constant weight reads it")
    return reading


def describe(model: ir.Model) -> str:
    """The quantization of a graph in a line: `14 modules int8, 1 module w8a16; 6 other Q/DQ nodes`."""
    reading = read(model)
    counts = Counter(numbers.format for numbers in reading.modules.values())
    parts = [f"{count} module{'s' * (count > 1)} {form}" for form, count in sorted(counts.items())]
    others = f"{len(reading.unread)} other Q/DQ node{'s' * (len(reading.unread) > 1)}" if reading.unread else ""
    return "; ".join(filter(None, [", ".join(parts), others])) or "no Q/DQ nodes"


@dataclass(frozen=True)
class _Scaled:
    """A tensor that comes out of a DequantizeLinear."""

    nodes: list[ir.Node]
    """The DequantizeLinear, and the QuantizeLinear before it where there is one."""
    scale: Array
    """float32: [] per tensor, [channels] along `axis`, or in blocks along `axis`."""
    type: NumberType
    axis: int
    block_size: int
    shape: tuple[int, ...] | None
    """Of a constant tensor; None where it is computed."""
    problem: str = ""
    """Why its numbers cannot be a plan's."""


def _behind(node: ir.Node, index: int) -> _Scaled | None:
    """The quantization of what a node reads; None where it reads high precision."""
    value = node.inputs[index]
    last = None if value is None else value.producer()
    if value is None or last is None or last.op_type != "DequantizeLinear":
        return None
    stored, nodes = last.inputs[0], [last]
    assert stored is not None
    first = stored.producer()
    source: ir.Value | None = stored
    if first is not None and first.op_type == "QuantizeLinear":
        nodes, source = [first, last], first.inputs[0]
    tensor, scale = constant(source), constant(last.inputs[1])
    kind = _TYPES.get(stored.dtype or ir.DataType.UNDEFINED)
    if kind is None and first is not None:
        kind = _quantized_type(first)
    problem = _problem(last, scale, kind)
    array = np.zeros((), np.float32) if scale is None else scale.numpy().astype(np.float32)
    shape = None if tensor is None else tuple(tensor.shape.numpy())
    rank = len(shape or array.shape) or 1
    return _Scaled(
        nodes=nodes,
        scale=array.reshape(()) if array.size == 1 and array.ndim < 2 else array,
        type=kind or "int8",
        axis=last.attributes.get_int("axis", 1) % rank,
        block_size=last.attributes.get_int("block_size", 0),
        shape=shape,
        problem=problem,
    )


def _quantized_type(quantizer: ir.Node) -> NumberType | None:
    """The type that a QuantizeLinear writes, told by its zero point; UINT8 without one, as ONNX says."""
    zero = quantizer.inputs[2] if len(quantizer.inputs) > 2 else None
    return _TYPES.get(zero.dtype or ir.DataType.UNDEFINED) if zero is not None else None


def _problem(node: ir.Node, scale: ir.TensorProtocol | None, kind: NumberType | None) -> str:
    if kind is None:
        return "its number type has no format here"
    if scale is None:
        return "its scale is computed, not a constant"
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    stored = node.inputs[0]
    unsigned = stored is not None and stored.dtype == ir.DataType.UINT8
    if zero is None:
        return "it is asymmetric: unsigned around zero" if unsigned else ""
    middle = 128 if zero.dtype == ir.DataType.UINT8 else 0
    return "" if (zero.numpy().astype(np.float32) == middle).all() else "it is asymmetric"


def _numbers(node: ir.Node, weight: _Scaled | None, activation: _Scaled | None) -> ModuleQuantization | str:
    """The numbers of one call, or in words why there are none."""
    if weight is None or weight.shape is None:
        return "its weight is not quantized" if weight is None else "its second operand is computed, not a weight"
    if problem := weight.problem or (activation.problem if activation is not None else ""):
        return problem
    if activation is not None and activation.scale.ndim:
        return "its input has more than one scale"
    granularity, amax = _weight_amax(node, weight)
    form = _FORMATS.get((weight.type, granularity, activation.type if activation is not None else None))
    if form is None or (form == "fp8_block128" and weight.block_size != 128 and amax.shape[1] > 1):
        inputs = activation.type if activation is not None else "high precision"
        return f"{weight.type} weights {granularity or 'scaled along inputs'} with {inputs} inputs are no format here"
    return ModuleQuantization(
        format=form,
        weight_amax=amax,
        input_amax=None if activation is None else activation.scale * np.float32(GREATEST[activation.type]),
        block_size=weight.block_size if granularity == "block" else 0,
    )


def _weight_amax(node: ir.Node, weight: _Scaled) -> tuple[str, Array]:
    """Granularity, and amax as a plan holds it: [] | [out] | [out, blocks]. No granularity: scaled along inputs."""
    outputs, amax = output_axis(node), weight.scale * np.float32(GREATEST[weight.type])
    if amax.ndim == 0:
        return "tensor", amax
    if amax.ndim == 1:
        return ("channel", amax) if weight.axis == outputs else ("", amax)
    if amax.ndim == 2 and weight.axis != outputs:
        return "block", np.ascontiguousarray(amax if outputs == 0 else amax.T)
    return "", amax
