"""Where a 16-bit graph makes infinity or NaN out of finite numbers.

ONNX Runtime computes most 16-bit operators on a CPU in float32 and leaves out the roundings between them, also with all
optimizations off: of `MatMul, Mul` with a product of 1.6e5 in between it returns the finite number that float32 gives,
where a strongly typed engine returns infinity. So the range of binary16 is written into the graph: behind each 16-bit
tensor stand operators that put infinity for what rounds to it, and zero for what rounds to zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.repairs import GuiltyNode
from trtbuild.graph import document
from trtbuild.graph.float_types import float_type
from trtbuild.graph.initializers import constant
from trtbuild.graph.naming import module_of
from trtbuild.graph.protobuf import read_proto
from trtbuild.graph.ranges import ask_for_magnitudes, write_beside_weights

OVERFLOWS = 65520.0
"""The least magnitude that rounds to infinity: halfway between 65504 and the next power of two (IEEE 754, to even)."""
VANISHES = 2.0**-25
"""The greatest magnitude that rounds to zero: half the least subnormal."""

MEANT = 1e30
"""A magnitude in FP32 from which a number stands for infinity, as the float32 minimum does in attention masks."""

_PREFIX = "trtbuild.half"


def float_outputs(graph: ir.Graph) -> list[str]:
    """Names of all float tensors that the main graph's nodes compute for a reader, in the graph's order."""
    return [
        value.name
        for node in graph
        for value in node.outputs
        if value.name and float_type(value) is not None and (value.uses() or value.is_graph_output())
    ]


def write_magnitudes(model: OnnxModel, names: Sequence[str], target: OnnxModel) -> dict[str, str]:
    """Write a graph whose outputs are max |x| of the named tensors, with binary16's range where the graph has FP16.

    Returns the output of each name. NaN counts as infinity.
    """
    proto = read_proto(model.main)
    halves = _halves(document.load(model.main).graph)
    if halves:
        _limit(proto, halves)
    outputs = ask_for_magnitudes(proto, names)
    write_beside_weights(proto, model, target)
    return outputs


def _halves(graph: ir.Graph) -> set[str]:
    computed = (value for node in graph for value in node.outputs if value.name)
    return {
        str(value.name)
        for value in computed
        if (found := float_type(value)) is not None and ir.DataType.from_numpy(found) == ir.DataType.FLOAT16
    }


def _limit(proto: onnx.ModelProto, halves: set[str]) -> None:
    """Put the range of binary16 behind each node that computes one of these tensors, in place."""
    for name, number in (("overflows", OVERFLOWS), ("vanishes", VANISHES), ("zero", 0.0), ("infinity", math.inf)):
        proto.graph.initializer.append(helper.make_tensor(f"{_PREFIX}/{name}", TensorProto.FLOAT, [], [number]))
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        limited = [name for name in node.output if name in halves]
        for name in limited:
            node.output[list(node.output).index(name)] = f"{_PREFIX}.{name}"
        nodes.append(node)
        for name in limited:
            nodes += _limited(f"{_PREFIX}.{name}", name)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _limited(computed: str, name: str) -> Iterator[onnx.NodeProto]:
    def step(operator: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=f"{computed}/{output}", **attributes)

    wide, size, big, endless, capped, small, kept = (f"{computed}.{part}" for part in "abcdefg")
    yield step("Cast", [computed], wide, to=TensorProto.FLOAT)
    yield step("Abs", [wide], size)
    yield step("GreaterOrEqual", [size, f"{_PREFIX}/overflows"], big)
    yield step("Mul", [wide, f"{_PREFIX}/infinity"], endless)
    yield step("Where", [big, endless, wide], capped)
    yield step("LessOrEqual", [size, f"{_PREFIX}/vanishes"], small)
    yield step("Where", [small, f"{_PREFIX}/zero", capped], kept)
    yield step("Cast", [kept], name, to=TensorProto.FLOAT16)


class Damage:
    """What 16 bits did to a graph on one batch: magnitudes of its tensors beside those of the FP32 graph."""

    def __init__(
        self, graph: ir.Graph, lowered: Mapping[str, float], original: ir.Graph, exact: Mapping[str, float]
    ) -> None:
        self._graph, self._lowered, self._exact = graph, lowered, exact
        self._original = {node.name: node for node in original if node.name}

    def exact(self, value: ir.Value) -> float | None:
        """The tensor's magnitude in FP32; that of what it was cast from, where the FP32 graph has no such cast."""
        node = value.producer()
        while node is not None and node.op_type == "Cast" and node.name not in self._original:
            source = node.inputs[0]
            assert source is not None
            value, node = source, source.producer()
        if node is None:
            return None
        same, index = self._original.get(node.name or ""), value.index()
        if same is None or index is None or index >= len(same.outputs):
            return None
        return self._exact.get(same.outputs[index].name or "")

    def broken(self, value: ir.Value | None) -> bool:
        """Whether a tensor holds infinity or NaN in 16 bits, and in FP32 nothing that is or stands for it."""
        if value is None or constant(value) is not None:
            return False  # a constant that does not fit is its reader's fault
        if math.isfinite(self._lowered.get(value.name or "", 0.0)):
            return False
        exact = self.exact(value)
        return exact is None or exact < MEANT

    def guilty(self, *, everywhere: bool = False) -> list[ir.Node]:
        """Nodes with a broken output and no broken input: those behind the graph's broken outputs, or, `everywhere`,
        all of them."""
        values = [value for node in self._graph for value in node.outputs] if everywhere else self._graph.outputs
        waiting = [value.producer() for value in values if self.broken(value)]
        seen: set[ir.Node] = set()
        found: set[ir.Node] = set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if broken := [value for value in node.inputs if self.broken(value)]:
                waiting += [value.producer() for value in broken if value is not None]
            else:
                found.add(node)
        return [node for node in self._graph if node in found]

    def describe(self, node: ir.Node) -> GuiltyNode:
        """The node for a report."""
        sizes = [size for value in node.outputs if (size := self.exact(value)) is not None and size < MEANT]
        return GuiltyNode(
            node=node.name or "", module=module_of(node), operator=node.op_type, amax_fp32=max(sizes, default=None)
        )
