"""GELU and the scale behind it: written out, GELU has a constant 0.5 that a scale for each channel can replace.

    gelu(x) s = x (0.5 s) (1 + erf(x / sqrt 2))                                (Hendrycks and Gimpel 2016, eq. 1)
    gelu(x) s ~ x (0.5 s) (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))          (the same, section 2)

A compiler that fuses pointwise operators then gets the scale for nothing. One with a kernel for Gelu is faster with
that kernel and a Mul: `fuse_gelu` goes back.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.float_types import float_type
from trtbuild.graph.initializers import constant
from trtbuild.graph.naming import Names, module_of, names_of

SCALE_NAME = "Mul_gelu_scale"
"""How the Mul by `0.5 s` is named behind its module's path."""
_LEAST_OPSET = 20
"""The first opset with Gelu."""
_CUBE = 0.044715


def fold_scale(graph: ir.Graph, gelu: ir.Node, scale: Array) -> None:
    """Replace a Gelu by its formula, with `scale` [channels] in it; the Gelu's readers now read the scaled tensor.

    The last node takes the Gelu's output name. The caller has made sure that all readers want the scale.
    """
    x, old = gelu.inputs[0], gelu.outputs[0]
    assert x is not None
    nodes: list[ir.Node] = []
    names = names_of(graph)
    prefix = f"{module}/" if (module := module_of(gelu)) else f"{gelu.name}_"

    def compute(op_type: str, *inputs: ir.Value, name: str = "") -> ir.Value:
        label = names.unique(prefix + (name or f"{op_type}_gelu"))
        output = ir.Value(name=f"{label}:0", type=old.type or x.type, shape=old.shape)
        nodes.append(ir.Node("", op_type, list(inputs), outputs=[output], name=label))
        return output

    dtype = float_type(x) or np.dtype(np.float32)

    def number(name: str, value: Array | float) -> ir.Value:
        return initializers.add(graph, f"{prefix}{name}", np.asarray(value, np.float32).astype(dtype))

    if gelu.attributes.get_string("approximate", "none") == "tanh":
        # sqrt(2 / pi) (x + 0.044715 x^3), without the cube, which leaves FP16 at 40.
        slope = math.sqrt(2 / math.pi)
        square = compute("Mul", x, x)
        curved = compute("Add", compute("Mul", square, number("gelu_cube", slope * _CUBE)), number("gelu_slope", slope))
        bent = compute("Tanh", compute("Mul", x, curved))
    else:
        bent = compute("Erf", compute("Mul", x, number("gelu_sqrt_half", math.sqrt(0.5))))
    gate = compute("Add", bent, number("gelu_one", 1.0))
    half = compute("Mul", x, number("gelu_scale", scale * np.float32(0.5)), name=SCALE_NAME)
    result = compute("Mul", half, gate)
    ir.convenience.replace_nodes_and_values(graph, gelu, [gelu], nodes, [old], [result])


def fuse_gelu(model: ir.Model) -> int:
    """Turn GELUs that `fold_scale` wrote out back into a Gelu and a Mul by their scale, in place; returns how many.

    Nothing changes below opset 20, which has no Gelu.
    """
    graph = model.graph
    if model.opset_imports.get("", 0) < _LEAST_OPSET:
        return 0
    names = names_of(graph)
    fused = 0
    for half in list(graph):
        if half.op_type != "Mul" or SCALE_NAME not in (half.name or ""):
            continue
        last = _sole_reader(half)
        if last is None or last.op_type != "Mul":
            continue
        gate = next((value for value in last.inputs if value is not half.outputs[0]), None)
        approximate = None if gate is None else _formula(gate, half.inputs[0])
        vector = constant(half.inputs[1])
        dead = _between(last, half.inputs[0])
        if approximate is None or vector is None or not _read_by(dead[1:], dead):
            continue
        _fuse(graph, half, last, dead, approximate, vector, names)
        fused += 1
    initializers.drop_unused(graph)
    return fused


def _fuse(
    graph: ir.Graph,
    half: ir.Node,
    last: ir.Node,
    dead: list[ir.Node],
    approximate: str,
    vector: ir.TensorProtocol,
    names: Names,
) -> None:
    x, old = half.inputs[0], last.outputs[0]
    prefix = (half.name or "").rpartition(SCALE_NAME)[0]
    label = names.unique(f"{prefix}Gelu")
    plain = ir.Value(name=f"{label}:0", type=old.type, shape=old.shape)
    gelu = ir.Node("", "Gelu", [x], [ir.AttrString("approximate", approximate)], outputs=[plain], name=label)
    doubled = np.asarray(vector.numpy().astype(np.float32) * 2).astype(vector.numpy().dtype)
    scale = initializers.add(graph, f"{prefix}gelu_output_scale", doubled)
    result = ir.Value(name=old.name, type=old.type, shape=old.shape)
    product = ir.Node("", "Mul", [plain, scale], outputs=[result], name=half.name)
    ir.convenience.replace_nodes_and_values(graph, last, dead, [gelu, product], [old], [result])


def _formula(gate: ir.Value, x: ir.Value | None) -> str | None:
    """`none` or `tanh` where `gate` is 1 + erf(x / sqrt 2) or its approximation; else None."""
    if (bent := _times(gate, "Add", 1.0)) is None or (node := bent.producer()) is None:
        return None
    inner = node.inputs[0]
    if inner is None or node.op_type not in ("Erf", "Tanh"):
        return None
    if node.op_type == "Erf":
        return "none" if _times(inner, "Mul", math.sqrt(0.5)) is x else None
    product = inner.producer()
    if product is None or product.op_type != "Mul" or x not in product.inputs:
        return None
    slope = math.sqrt(2 / math.pi)
    curved = next((value for value in product.inputs if value is not x), None)
    cubic = None if curved is None else _times(curved, "Add", slope)
    square = None if cubic is None else _times(cubic, "Mul", slope * _CUBE)
    squared = None if square is None else square.producer()
    return "tanh" if squared is not None and squared.op_type == "Mul" and set(squared.inputs) == {x} else None


def _times(value: ir.Value, op_type: str, number: float) -> ir.Value | None:
    """The other input of a node that joins a tensor and this constant."""
    node = value.producer()
    if node is None or node.op_type != op_type:
        return None
    for index in (0, 1):
        tensor = constant(node.inputs[index])
        # A BF16 constant is right to 3 digits.
        if tensor is not None and tensor.size == 1 and math.isclose(float(tensor.numpy()), number, rel_tol=5e-3):
            return node.inputs[1 - index]
    return None


def _sole_reader(node: ir.Node) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    return uses[0].node if len(uses) == 1 and not node.outputs[0].is_graph_output() else None


def _between(last: ir.Node, x: ir.Value | None) -> list[ir.Node]:
    """The nodes that compute `last` from `x`, each after its readers."""
    found: dict[ir.Node, None] = {}
    waiting = [last]
    while waiting:
        node = waiting.pop(0)
        found.pop(node, None)
        found[node] = None
        waiting += [
            producer
            for value in node.inputs
            if value is not None and value is not x and (producer := value.producer()) is not None
        ]
    return list(found)


def _read_by(nodes: list[ir.Node], readers: list[ir.Node]) -> bool:
    """Whether nothing but these readers reads what the nodes compute."""
    return all(initializers.only_used_by(value, readers) for node in nodes for value in node.outputs)
