"""What a build needs, before it starts: weights, and the tensors that are alive at once at the greatest shapes.

The tensors' peak is that of the graph as it is written, unfused, in the types it declares: TensorRT's own engine needs
less where it fuses and more where a kernel takes scratch. It is told, and only the weights can refuse a build.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.tensors import Shapes


@dataclass(frozen=True)
class Estimate:
    """Bytes that an engine will need."""

    weights_bytes: int
    activations_bytes: int
    """The greatest sum of tensors alive at once, of those whose shape is known."""
    unknown: int
    """Tensors whose shape the graph does not tell."""

    def __str__(self) -> str:
        unknown = f", {self.unknown} tensors of unknown shape left out" if self.unknown else ""
        return (
            f"weights {self.weights_bytes / 1e6:.0f} MB, tensors up to {self.activations_bytes / 1e6:.0f} MB at the "
            f"greatest shapes{unknown}"
        )


def estimate(model: ir.Model, shapes: Shapes) -> Estimate:
    """What the graph's engine needs at the `max` of every axis."""
    graph = model.graph
    lengths = {name: axis.max for name, axis in shapes.axes.items()}
    for name, shape in shapes.at("max").items():
        value = next((each for each in graph.inputs if each.name == name), None)
        if value is not None and value.shape is not None:
            lengths |= {
                str(dim.value): length
                for dim, length in zip(value.shape, shape, strict=False)
                if isinstance(dim, ir.SymbolicDim) and dim.value is not None
            }
    weights = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    nodes = list(graph)
    last_reader = {value: place for place, node in enumerate(nodes) for value in node.inputs if value is not None}
    ends: dict[int, int] = {}
    alive = peak = unknown = 0
    for value in graph.inputs:
        alive += _bytes(value, lengths) or 0
    for place, node in enumerate(nodes):
        for value in node.outputs:
            size = _bytes(value, lengths)
            unknown += size is None
            alive += size or 0
            end = last_reader.get(value, place)
            ends[end] = ends.get(end, 0) + (0 if value.is_graph_output() else size or 0)
        peak = max(peak, alive)
        alive -= ends.pop(place, 0)
    return Estimate(weights, peak, unknown)


def check(need: Estimate, free_bytes: int, *, streams_weights: bool) -> None:
    """Raises ModelError where the weights alone exceed the GPU's free memory."""
    if need.weights_bytes > free_bytes and not streams_weights:
        raise ModelError(
            f"the weights take {need.weights_bytes / 1e9:.1f} GB, and the GPU has {free_bytes / 1e9:.1f} GB free",
            hint="end what else uses the GPU, quantize the weights, or set engine.weight_streaming: true",
        )


def _bytes(value: ir.Value, lengths: dict[str, int]) -> int | None:
    if value.shape is None or value.dtype is None:
        return None
    dims = [dim if isinstance(dim, int) else lengths.get(str(dim.value)) for dim in value.shape]
    known = [dim for dim in dims if dim is not None]
    if len(known) < len(dims):
        return None
    return math.ceil(math.prod(known) * value.dtype.itemsize)
