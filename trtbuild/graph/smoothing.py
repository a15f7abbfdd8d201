"""SmoothQuant scales leave the graph (Xiao et al. 2022, section 4): into the norm or linear before, wherever one can.

A `Mul` that stays costs a pass over the activations, more than INT8 saves on small models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.folding import fold
from trtbuild.graph.linear import Linear


@dataclass
class Smoothed:
    """Where the scales went, per module."""

    folded: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def smooth(graph: ir.Graph, linears: list[Linear]) -> Smoothed:
    """Multiply each smoothed linear's input by its scale, in place; linears that read one tensor share one scale.

    Weights are not written here: each Linear carries the divisor and factor that its weight is to be written with.
    Raises ModelError where linears share a tensor and the plan lacks what a shared scale needs.
    """
    result = Smoothed()
    for group in _groups(linears):
        scale = _share(group)
        value = group[0].nodes[0].inputs[0]
        assert value is not None
        readers = [node for linear in group for node in linear.nodes]
        modules = [linear.module for linear in group]
        if len(readers) == len(group) and fold(graph, value, readers, scale, linears):
            result.folded += modules
            continue
        for tensor in dict.fromkeys(node.inputs[0] for node in readers):
            assert tensor is not None
            _multiply(graph, tensor, [node for node in readers if node.inputs[0] is tensor], scale, modules[0])
        result.left += modules
    return result


def _groups(linears: list[Linear]) -> list[list[Linear]]:
    """Linears to smooth by the tensor that they read. A module called more than once keeps its scale to itself."""
    groups: dict[ir.Value | str | None, list[Linear]] = {}
    for linear in linears:
        if linear.divisor is not None:
            key = linear.nodes[0].inputs[0] if len(linear.nodes) == 1 else linear.module
            groups.setdefault(key, []).append(linear)
    return list(groups.values())


def _share(group: list[Linear]) -> Array:
    """One scale [in] for the group, as if SmoothQuant had seen its weights stacked; updates the group's numbers.

    1/s = max|W|^(1-a) / max|x|^a per channel, so the greatest weight of the group gives the greatest of the scales.
    """
    scales = np.stack([linear.divisor for linear in group if linear.divisor is not None])
    shared: Array = scales.max(axis=0)
    if (scales == shared).all():
        return shared
    channel_amax = [
        linear.numbers.input_channel_amax for linear in group if linear.numbers.input_channel_amax is not None
    ]
    if not channel_amax:
        names = ", ".join(linear.module for linear in group)
        raise ModelError(
            f"the plan lacks input_channel_amax for {names}, which read one tensor with different SmoothQuant scales",
            hint="calibrate again: the plan was written by an older version",
        )
    input_amax = float(np.max(np.max(np.stack(channel_amax), axis=0).reshape(-1) * shared))
    for linear in group:
        if not np.array_equal(linear.divisor if linear.divisor is not None else shared, shared):
            linear.divisor = shared
            linear.weight_amax = np.abs(linear.smoothed()).max(axis=1)
        linear.input_amax = input_amax if linear.input_amax is not None else None
    return shared


def _multiply(graph: ir.Graph, value: ir.Value, readers: list[ir.Node], scale: Array, module: str) -> None:
    """The scale as a node, shared by all readers."""
    kind = readers[0].inputs[1]
    weight = initializers.constant(kind)
    assert weight is not None
    vector = initializers.add(graph, f"{module}.smooth_scale", scale.astype(initializers.float_type(weight)))
    name = f"{module}/Mul_smooth"
    taken = {node.name for node in graph}
    while name in taken:
        name += "_1"
    output = ir.Value(name=f"{name}:0", type=value.type, shape=value.shape)
    graph.insert_before(readers[0], ir.Node("", "Mul", [value, vector], outputs=[output], name=name))
    for reader in readers:
        reader.replace_input_with(0, output)
