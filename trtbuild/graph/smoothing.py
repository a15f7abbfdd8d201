"""Scales of SmoothQuant (Xiao et al. 2022, section 4) and AWQ (Lin et al. 2023) leave the graph: into the norm, GELU or
linear before, wherever one can.

A `Mul` that stays costs a pass over the activations, more than INT8 saves on small models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.quantization import shared_scale
from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.attention import Attention
from trtbuild.graph.folding import fold
from trtbuild.graph.layers import Layer
from trtbuild.graph.naming import names_of


@dataclass
class Smoothed:
    """Where the scales went, per module."""

    folded: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def smooth(graph: ir.Graph, layers: list[Layer], attentions: list[Attention] | None = None) -> Smoothed:
    """Multiply each smoothed linear's input by its scale, in place; linears that read one tensor share one scale.

    Weights are not written here: each Layer carries the divisor and factor that its weight is to be written with, and
    each attention that is to be quantized what its value was multiplied by. Raises ModelError where linears share a
    tensor and the plan lacks what a shared scale needs.
    """
    result = Smoothed()
    for group in _groups(layers):
        scale = _share(group)
        value = group[0].nodes[0].inputs[0]
        assert value is not None
        readers = [node for layer in group for node in layer.nodes]
        modules = [layer.module for layer in group]
        if len(readers) == len(group) and fold(graph, value, readers, scale, layers, attentions or []):
            result.folded += modules
            continue
        for tensor in dict.fromkeys(node.inputs[0] for node in readers):
            assert tensor is not None
            _multiply(graph, tensor, [node for node in readers if node.inputs[0] is tensor], scale, modules[0])
        result.left += modules
    return result


def _groups(layers: list[Layer]) -> list[list[Layer]]:
    """Layers to smooth by the tensor that they read and the algorithm that scaled it.

    A module called more than once keeps its scale to itself, and codes that calibration chose fit one scale only.
    """
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        if layer.divisor is None:
            continue
        key: tuple[object, ...] = (layer.nodes[0].inputs[0], layer.traits.algorithm)
        if len(layer.nodes) > 1:
            key = (layer.module,)
        elif layer.numbers.weight_codes is not None:
            key = (*key, layer.divisor.tobytes())
        groups.setdefault(key, []).append(layer)
    return list(groups.values())


def _share(group: list[Layer]) -> Array:
    """One scale [in] for the group; updates the group's numbers."""
    scales = np.stack([layer.divisor for layer in group if layer.divisor is not None])
    if (scales == scales[0]).all():
        return np.asarray(scales[0])
    shared = shared_scale(scales, group[0].traits.algorithm)
    input_amax = _shared_input_amax(group, shared)
    for layer in group:
        if not np.array_equal(layer.divisor if layer.divisor is not None else shared, shared):
            layer.rescale(shared)
        layer.input_amax = input_amax if layer.input_amax is not None else None
    return shared


def _shared_input_amax(group: list[Layer], shared: Array) -> float | None:
    """What the tensor reaches under the shared scale; None where no layer of the group quantizes it."""
    if all(layer.input_amax is None for layer in group):
        return None
    channel_amax = [layer.numbers.input_channel_amax for layer in group if layer.numbers.input_channel_amax is not None]
    if not channel_amax:
        names = ", ".join(layer.module for layer in group)
        raise ModelError(
            f"the plan lacks input_channel_amax for {names}, which read one tensor with different scales",
            hint="calibrate again: the plan was written by an older version",
        )
    return float(np.max(np.max(np.stack(channel_amax), axis=0).reshape(-1) * shared))


def _multiply(graph: ir.Graph, value: ir.Value, readers: list[ir.Node], scale: Array, module: str) -> None:
    """The scale as a node, shared by all readers."""
    kind = readers[0].inputs[1]
    weight = initializers.constant(kind)
    assert weight is not None
    vector = initializers.add(graph, f"{module}.smooth_scale", scale.astype(initializers.float_type(weight)))
    name = names_of(graph).unique(f"{module}/Mul_smooth")
    output = ir.Value(name=f"{name}:0", type=value.type, shape=value.shape)
    graph.insert_before(readers[0], ir.Node("", "Mul", [value, vector], outputs=[output], name=name))
    for reader in readers:
        reader.replace_input_with(0, output)
