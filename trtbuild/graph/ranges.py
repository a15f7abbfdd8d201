"""How large the tensors get that a graph computes and then multiplies or adds: what no calibration of modules sees.

The graph is copied with its outputs replaced by one number for each such tensor, max |x|. Weights in a data file are
linked, not copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from trtbuild.core.artifacts import OnnxModel
from trtbuild.graph import document, external_data
from trtbuild.graph.float_types import float_type
from trtbuild.graph.initializers import constant, is_unknown
from trtbuild.graph.protobuf import read_proto

_PREFIX = "trtbuild.range"


class Measured(NamedTuple):
    """One operand whose range is wanted."""

    key: str
    """`<node name>:<input index>`."""
    value: ir.Value
    multiplied: bool
    """Whether it is an operand of a product; a residual addition otherwise."""


class Probe(NamedTuple):
    """One number that the copied graph gives."""

    key: str
    output: str
    multiplied: bool


def operands(graph: ir.Graph) -> list[Measured]:
    """Both operands of each MatMul of two computed tensors, and of each addition of two computed tensors of one shape.

    A softmax that such a MatMul reads is one of its operands. An addition that broadcasts is a bias or a mask and no
    residual connection; where shapes are unknown, it is taken for a residual one.
    """
    found = []
    for node in graph:
        multiplies = node.op_type == "MatMul" and not node.domain
        if not multiplies and not (node.op_type == "Add" and not node.domain and _same_shape(node)):
            continue
        values = [value for value in node.inputs if value is not None and constant(value) is None]
        if len(values) != 2 or not node.name or any(float_type(value) is None for value in values):
            continue
        found += [Measured(f"{node.name}:{index}", value, multiplies) for index, value in enumerate(values)]
    return found


def write_probe(model: OnnxModel, target: OnnxModel) -> list[Probe]:
    """Write the graph that measures ranges, and say which of its outputs belongs to which operand.

    Nothing is written where there is nothing to measure. NaN counts as infinity. Raises ModelError where the model
    cannot be read.
    """
    measured = operands(document.load(model.main).graph)
    if not measured:
        return []
    proto = read_proto(model.main)
    outputs = ask_for_magnitudes(proto, list(dict.fromkeys(str(entry.value.name) for entry in measured)))
    write_beside_weights(proto, model, target)
    return [Probe(entry.key, outputs[str(entry.value.name)], entry.multiplied) for entry in measured]


def ask_for_magnitudes(proto: onnx.ModelProto, names: Sequence[str]) -> dict[str, str]:
    """Replace the graph's outputs by max |x| of each named tensor, in place; returns the output of each name.

    NaN counts as infinity.
    """
    outputs = {name: f"{_PREFIX}.{number}" for number, name in enumerate(names)}
    proto.graph.initializer.append(helper.make_tensor(f"{_PREFIX}.infinity", TensorProto.FLOAT, [], [float("inf")]))
    for name, output in outputs.items():
        proto.graph.node.extend(_greatest_magnitude(name, output))
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs.values())
    return outputs


def write_beside_weights(proto: onnx.ModelProto, model: OnnxModel, target: OnnxModel) -> None:
    """Write a graph made from `model`, whose external weights are linked beside it."""
    target.main.write_bytes(proto.SerializeToString(deterministic=True))
    for file in external_data.locations(model.main):
        link = target.path / file.relative_to(model.path.resolve())
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, link)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, link)


def _greatest_magnitude(name: str, output: str) -> list[onnx.NodeProto]:
    """max |x|, and infinity where x holds a NaN: a maximum alone may pass over it."""
    step = [f"{output}.{part}" for part in ("float", "is_nan", "magnitude", "known")]
    return [
        helper.make_node("Cast", [name], [step[0]], name=f"{output}/Cast", to=TensorProto.FLOAT),
        helper.make_node("IsNaN", [step[0]], [step[1]], name=f"{output}/IsNaN"),
        helper.make_node("Abs", [step[0]], [step[2]], name=f"{output}/Abs"),
        helper.make_node("Where", [step[1], f"{_PREFIX}.infinity", step[2]], [step[3]], name=f"{output}/Where"),
        helper.make_node("ReduceMax", [step[3]], [output], name=f"{output}/ReduceMax", keepdims=0),
    ]


def _same_shape(addition: ir.Node) -> bool:
    """Whether no operand broadcasts, as far as shapes tell."""
    first, second = (None if value is None else value.shape for value in addition.inputs)
    if first is None or second is None:
        return True
    if len(first) != len(second):
        return False
    return all(a == b or is_unknown(a) or is_unknown(b) or 1 not in (a, b) for a, b in zip(first, second, strict=True))
