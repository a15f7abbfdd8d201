"""Which nodes to compute in FP32 because of a guilty one: itself, its readers, or what feeds it.

A value beyond binary16's range must be made in FP32 and read in FP32: a cast between the two would be infinite again.
Where a node is in FP32 already and still divides by zero, what it reads was damaged before: its producers come next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from trtbuild.core.repairs import FP16_MAX, GuiltyNode
from trtbuild.graph.float_types import float_type


def grown(
    original: ir.Graph,
    node: ir.Node,
    guilty: GuiltyNode,
    exact: Mapping[str, float],
    kept: Mapping[str, str],
) -> dict[str, str]:
    """Names of nodes of the FP32 graph to keep in FP32 beside `kept`, each with the reason; empty where nothing is
    left to keep. `node` is of the lowered graph, `exact` holds magnitudes of the FP32 graph's tensors."""
    nodes = {its.name: its for its in original if its.name}
    added: dict[str, str] = {}
    same = nodes.get(node.name or "")
    if same is None and node.op_type == "Cast":
        for name in _through_casts(node.outputs[0], nodes):
            added[name] = f"reads up to {_said(guilty.amax_fp32)}"
    elif same is not None and same.name not in kept:
        added[node.name or ""] = _why(guilty)
    elif same is not None:
        for producer in _feeding(same, kept):
            added[producer] = f"feeds {node.name}, where its rounding in FP16 ends in infinity or NaN"
    waiting = [name for name in added if name in nodes]
    while waiting:
        for value in nodes[waiting.pop()].outputs:
            if (size := exact.get(value.name or "", 0.0)) <= FP16_MAX:
                continue
            for reader in value.consumers():
                if reader.name and reader.name not in {*kept, *added} and _computes_floats(reader):
                    added[reader.name] = f"reads up to {_said(size)}"
                    waiting.append(reader.name)
    return {name: reason for name, reason in added.items() if name not in kept}


def _feeding(node: ir.Node, kept: Mapping[str, str]) -> set[str]:
    """The nearest nodes that a node's floats come from and that are not in FP32 yet."""
    found: set[str] = set()
    waiting, seen = [node], {node}
    while waiting:
        for value in waiting.pop().inputs:
            producer = value.producer() if value is not None else None
            if producer is None or producer in seen or float_type(value) is None:
                continue
            seen.add(producer)
            if producer.name in kept:
                waiting.append(producer)
            elif producer.name:
                found.add(producer.name)
    return found


def _through_casts(value: ir.Value, known: Mapping[str, ir.Node]) -> Iterator[str]:
    for reader in value.consumers():
        if reader.name in known:
            yield reader.name or ""
        elif reader.op_type == "Cast":
            yield from _through_casts(reader.outputs[0], known)


def _computes_floats(node: ir.Node) -> bool:
    return any(float_type(value) is not None for value in node.outputs)


def _why(guilty: GuiltyNode) -> str:
    if guilty.amax_fp32 is not None and guilty.amax_fp32 > FP16_MAX:
        return f"makes up to {_said(guilty.amax_fp32)}, FP16 ends at {FP16_MAX:,.0f}"
    return f"infinity or NaN in FP16, up to {_said(guilty.amax_fp32)} in FP32"


def _said(size: float | None) -> str:
    return "an unknown magnitude" if size is None else f"{size:,.0f}" if size >= 1000 else f"{size:.3g}"
