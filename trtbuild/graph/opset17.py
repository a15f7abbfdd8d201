"""A graph in the words of opset 17: newer operators and attributes rewritten so that they compute what they computed.

What changed in the default domain after 17, as far as a graph in float32 can meet it:

    Gelu (20), Mish (18), GroupNormalization (18, its scale per channel in 21)      new operators
    Split (18: num_outputs), Pad (18: axes), Reduce* (18: axes as an input)         attributes and inputs that moved
    QuantizeLinear, DequantizeLinear (19, 21), Cast (19)                            saturate, output_dtype, block_size
    GridSample (20)                                                                 its modes have other names
    AveragePool (19: dilations), Resize (18, 19), ScatterND, ScatterElements (18)   attributes to drop where unused
    Reshape, Transpose, Shape, Identity, Conv, ...                                  more element types, and nothing else

Source: the operator schemas of ONNX 1.23 (`onnx.defs`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from trtbuild.graph import initializers
from trtbuild.graph.gelu import fold_scale
from trtbuild.graph.rewriting import Rewriting, numbers

OPSET = 17
IR_VERSION = 8
"""What ONNX 1.12 and 1.13 wrote, which know opset 17 and 18."""

Rewrite = Callable[[ir.Graph, ir.Node], "str | None"]
"""Rewrites one node in place; returns in words why it cannot be."""


def lower(model: ir.Model) -> dict[ir.Node, str]:
    """Bring a model of a newer opset to opset 17, in place; nodes that cannot be said there stay, each with the reason.

    A model of an older opset keeps it.
    """
    opset = model.opset_imports.get("", OPSET)
    problems: dict[ir.Node, str] = {}
    if opset > OPSET:
        for node in list(model.graph.all_nodes()):
            if node.domain:
                continue
            assert node.graph is not None
            rewrite = _REWRITES.get(node.op_type)
            reason = rewrite(model.graph, node) if rewrite is not None else None
            if reason is None and node.graph is not None:
                reason = _known_at_17(node, opset)
            if reason is not None:
                problems[node] = reason
        model.opset_imports[""] = OPSET
    model.ir_version = min(model.ir_version, IR_VERSION)
    initializers.drop_unused(model.graph)
    return problems


def _known_at_17(node: ir.Node, opset: int) -> str | None:
    """Drop attributes that only say the default; what is left must be in the operator's definition of opset 17."""
    try:
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    except onnx.defs.SchemaError:
        return f"opset {OPSET} has no operator {node.op_type}"
    newer = onnx.defs.get_schema(node.op_type, min(opset, onnx.defs.onnx_opset_version()), "").attributes
    for name in [name for name in node.attributes if name not in schema.attributes]:
        default = newer[name].default_value if name in newer else None
        value = node.attributes[name].value
        if default is None or onnx.helper.get_attribute_value(default) not in (value, str(value).encode()):
            return f"opset {OPSET} has no attribute {name} of {node.op_type}, which is {value!r} here"
        del node.attributes[name]
    if len(node.inputs) > schema.max_input:
        return f"{node.op_type} has {len(node.inputs)} inputs, opset {OPSET} knows {schema.max_input}"
    return None


def _home(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _gelu(graph: ir.Graph, node: ir.Node) -> str | None:
    fold_scale(_home(node), node, np.asarray(1.0, np.float32))
    return None


def _mish(graph: ir.Graph, node: ir.Node) -> str | None:
    """x tanh(ln(1 + e^x)) (Misra 2019)."""
    write, x = Rewriting(graph, node), node.inputs[0]
    assert x is not None
    write.replace(write.op("Mul", x, write.op("Tanh", write.op("Softplus", x))))
    return None


def _group_normalization(graph: ir.Graph, node: ir.Node) -> str | None:
    """As an instance normalization of [batch, groups, the rest], then scale and bias for each channel."""
    x, scale, bias = node.inputs
    groups = node.attributes.get_int("num_groups", 0)
    if x is None or scale is None or bias is None or x.shape is None or len(x.shape) < 3:
        return "the rank of its input is unknown or below 3"
    dtype = np.dtype(x.dtype.numpy()) if x.dtype is not None else np.dtype(np.float32)
    write, rank = Rewriting(graph, node), len(x.shape)
    grouped = write.op("Reshape", x, write.constant("groups", np.array([0, groups, -1], np.int64)))
    ones = write.constant("ones", np.ones(groups, dtype))
    zeros = write.constant("zeros", np.zeros(groups, dtype))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    normal = write.op("InstanceNormalization", grouped, ones, zeros, epsilon=epsilon)
    normal = write.op("Reshape", normal, write.op("Shape", x, dtype=ir.DataType.INT64))
    # [channels] beside [batch, channels, ...]; opset 18 has one number for each group, opset 21 for each channel.
    per_group = scale.shape is not None and scale.shape[0] == groups and x.shape[1] != groups
    for op_type, vector in (("Mul", scale), ("Add", bias)):
        tensor = initializers.constant(vector)
        if tensor is None:
            return "its scale or bias is not a constant"
        array = tensor.numpy()
        if per_group:
            if not isinstance(x.shape[1], int):
                return "the number of its channels is unknown"
            array = np.repeat(array, x.shape[1] // groups)
        shaped = np.ascontiguousarray(array.reshape(-1, *[1] * (rank - 2)))
        normal = write.op(op_type, normal, write.constant("per_channel", shaped))
    write.replace(normal)
    return None


def _split(graph: ir.Graph, node: ir.Node) -> str | None:
    """`num_outputs` means equal parts, the last one smaller; without sizes opset 17 wants them equal."""
    parts = node.attributes.pop("num_outputs", None)
    if parts is None or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return None
    x = node.inputs[0]
    length = None if x is None or x.shape is None else x.shape[node.attributes.get_int("axis", 0)]
    if not isinstance(length, int):
        return None if len(node.outputs) == 1 else "the length that it splits is unknown, its parts may differ"
    each = -(-length // len(node.outputs))
    sizes = [each] * (len(node.outputs) - 1)
    node.resize_inputs(2)
    name = f"{node.name}.split"
    node.replace_input_with(1, initializers.add(graph, name, np.array([*sizes, length - sum(sizes)], np.int64)))
    return None


def _pad(graph: ir.Graph, node: ir.Node) -> str | None:
    """Pads of some axes become pads of all."""
    if node.attributes.get_string("mode", "constant") == "wrap":
        return "opset 17 does not pad by wrapping around"
    axes = numbers(node.inputs[3]) if len(node.inputs) > 3 else None
    if len(node.inputs) <= 3 or node.inputs[3] is None:
        node.resize_inputs(min(len(node.inputs), 3))
        return None
    pads, x = numbers(node.inputs[1]), node.inputs[0]
    if axes is None or pads is None or x is None or x.shape is None:
        return "its axes and pads are not constants, or the rank of its input is unknown"
    rank = len(x.shape)
    full = np.zeros((2, rank), np.int64)
    for position, axis in enumerate(axes):
        full[:, axis % rank] = pads[position], pads[position + len(axes)]
    node.replace_input_with(1, initializers.add(graph, f"{node.name}.pads", full.reshape(-1)))
    node.resize_inputs(3)
    return None


def _reduce(graph: ir.Graph, node: ir.Node) -> str | None:
    """`axes` become an attribute. A parser that looks for them there would otherwise reduce all."""
    axes = numbers(node.inputs[1]) if len(node.inputs) > 1 else []
    keep = node.attributes.pop("noop_with_empty_axes", None)
    if axes is None and node.inputs[1] is not None:
        return "its axes are not constants"
    if axes:
        node.attributes["axes"] = ir.AttrInt64s("axes", list(axes))
    elif keep is not None and keep.as_int():
        if node.op_type not in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"):
            return "it reduces no axis, and opset 17 cannot say so"
        write, x = Rewriting(graph, node), node.inputs[0]
        assert x is not None
        write.replace(write.op("Identity", x))
        return None
    node.resize_inputs(1)
    return None


def _grid_sample(graph: ir.Graph, node: ir.Node) -> str | None:
    mode = node.attributes.get_string("mode", "linear")
    node.attributes["mode"] = ir.AttrString("mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))
    return None


def _average_pool(graph: ir.Graph, node: ir.Node) -> str | None:
    if any(dilation != 1 for dilation in node.attributes.get_ints("dilations", [])):
        return "opset 17 does not dilate an AveragePool"
    node.attributes.pop("dilations", None)
    return None


def _resize(graph: ir.Graph, node: ir.Node) -> str | None:
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric":
        return "opset 17 does not resize by half_pixel_symmetric"
    axes, rank = node.attributes.get_ints("axes", []), len(node.inputs[0].shape or ()) if node.inputs[0] else 0
    if list(axes) == list(range(rank)):
        node.attributes.pop("axes", None)
    return None


def _cast(graph: ir.Graph, node: ir.Node) -> str | None:
    node.attributes.pop("saturate", None)  # speaks of FP8 alone
    return None


def _quantize(graph: ir.Graph, node: ir.Node) -> str | None:
    """The type of its codes from the zero point, which opset 21 could leave to `output_dtype`."""
    if node.attributes.get_int("block_size", 0):
        return "opset 17 has no scales for blocks"
    asked = node.attributes.get_int("output_dtype", 0)
    for name in ("output_dtype", "block_size", "saturate", "precision"):
        node.attributes.pop(name, None)
    scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if scale is not None and scale.dtype not in (None, ir.DataType.FLOAT):
        return f"its scale is {scale.dtype}, opset 17 has float32 scales alone: quantize the graph in float32"
    if node.op_type == "DequantizeLinear":
        if asked not in (0, ir.DataType.FLOAT):
            return f"it gives {ir.DataType(asked)}, opset 17 gives float32"
    elif asked and zero is None:
        shape = tuple(scale.shape.numpy()) if scale is not None and scale.shape is not None else ()
        zeros = np.zeros(shape, ir.DataType(asked).numpy())
        node.resize_inputs(3)
        node.replace_input_with(2, initializers.add(graph, f"{node.name}.zero_point", zeros))
    return None


_REWRITES: dict[str, Rewrite] = {
    "Gelu": _gelu,
    "Mish": _mish,
    "GroupNormalization": _group_normalization,
    "Split": _split,
    "Pad": _pad,
    "GridSample": _grid_sample,
    "AveragePool": _average_pool,
    "Resize": _resize,
    "Cast": _cast,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
    **{
        f"Reduce{kind}": _reduce
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
}
