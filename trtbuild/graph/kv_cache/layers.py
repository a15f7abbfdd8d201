"""A decoder's attention layers, found in a graph and written into it: over a float cache, a quantized one or none.

Every rewriting of a cache is a `find` and a `write`: what attention computes of which values stays, nodes, inputs and
outputs become those of another cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import OUT, CacheTensor, KvCache
from trtbuild.graph.initializers import add
from trtbuild.graph.kv_cache.operators import CAUSAL, DOMAIN, OF_MODE, define
from trtbuild.graph.naming import module_of, names_of

TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int8": ir.DataType.INT8,
    "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
}
"""Element types of a cache as ONNX has them."""

Scales = Mapping[str, Sequence[float]]
"""Static scales of one layer: one a head for `key` and for `value`."""


@dataclass(frozen=True)
class Attention:
    """What one layer's attention computes, and the nodes that do it now."""

    nodes: tuple[ir.Node, ...]
    """In order; the first output of the last one is attention's."""
    module: str
    """The path of the layer's attention module; empty where the graph says none."""
    query: ir.Value
    """[batch, query heads, tokens, head_dim]."""
    key: ir.Value
    """Of the new tokens, [batch, kv_heads, tokens, head_dim], as `value`."""
    value: ir.Value
    lengths: ir.Value
    scale: float
    """Factor on query times key."""
    window: int
    """How many of the newest positions a token sees."""

    @property
    def output(self) -> ir.Value:
        """Like `query`."""
        return self.nodes[-1].outputs[0]

    def name(self, operator: str) -> str:
        """The name of a node of that operator in this layer."""
        return f"{self.module}/{operator}" if self.module else operator


def exported(model: ir.Model) -> dict[int, Attention]:
    """Attention without a cache, by layer. Raises ModelError where there is none, or layers are missing."""
    nodes = [node for node in model.graph if node.domain == DOMAIN and node.op_type == CAUSAL.name]
    if not nodes:
        raise ModelError(
            "the graph has no attention that a cache could serve",
            hint="export the model as a decoder; an ONNX file from elsewhere brings its own cache or has none",
        )
    found = {node.attributes["layer"].as_int(): _attention((node,), node) for node in nodes}
    if sorted(found) != list(range(len(nodes))):
        raise ModelError(f"the graph's attention layers are {sorted(found)}: some are missing or there twice")
    return dict(sorted(found.items()))


def over_floats(model: ir.Model, cache: KvCache) -> dict[int, Attention]:
    """Attention over a float cache, by layer. Raises ModelError where the graph has another cache than `cache` says."""
    append, attend = OF_MODE["float"]
    appends = {
        node.inputs[0].name: node
        for node in model.graph
        if node.domain == DOMAIN and node.op_type == append.name and node.inputs[0] is not None
    }
    if cache.mode != "float":
        raise ModelError(f"the cache is {cache.mode} already", hint="start from the graph with a float cache")
    found = {}
    for layer in range(cache.layers):
        first = appends.pop(cache.tensors(layer)[0].name, None)
        users = [] if first is None else [use.node for use in first.outputs[0].uses()]
        second = next((node for node in users if node.domain == DOMAIN and node.op_type == attend.name), None)
        if first is None or second is None:
            raise ModelError(f"the graph has no float cache of layer {layer}", hint="export the decoder again")
        found[layer] = _attention((first, second), first)
    if appends:
        raise ModelError(f"the graph has caches of more than {cache.layers} layers", hint="export the decoder again")
    return found


def write(model: ir.Model, layers: Mapping[int, Attention], cache: KvCache, scales: Mapping[int, Scales]) -> None:
    """Put attention over `cache` in the place of each layer's nodes, and its tensors behind the graph's other inputs
    and outputs. `scales` gives the layers whose mode has static ones theirs."""
    graph = model.graph
    forget_interface(graph, cache)
    for layer, attention in layers.items():
        inputs, outputs = _write_layer(graph, attention, layer, cache, scales.get(layer, {}))
        graph.inputs.extend(inputs)
        graph.outputs.extend(outputs)
    define(model)


def forget_interface(graph: ir.Graph, cache: KvCache) -> None:
    """Take the cache's tensors away from the graph's inputs and outputs. Nodes that read them still do."""
    names = {tensor.name for layer in range(cache.layers) for tensor in cache.tensors(layer)}
    for values, suffix in ((graph.inputs, ""), (graph.outputs, OUT)):
        kept = [value for value in values if (value.name or "").removesuffix(suffix) not in names]
        values.clear()
        values.extend(kept)


def replace(graph: ir.Graph, attention: Attention, new: Sequence[ir.Node]) -> None:
    """Put nodes, the last one's first output as attention's, in the place of the layer's nodes."""
    old, output = attention.output, new[-1].outputs[0]
    output.name, output.type, output.shape = f"{new[-1].name}:0", old.type, old.shape
    graph.insert_before(attention.nodes[-1], new)
    ir.convenience.replace_all_uses_with(old, output)
    graph.remove(reversed(attention.nodes), safe=True)


def interface(cache: KvCache, layer: int, batch: int | ir.SymbolicDim | None) -> dict[str, ir.Value]:
    """New graph inputs for one layer of the cache, by the role they play in its operators."""
    tensors = cache.tensors(layer)
    return {role: _value(tensor, tensor.name, batch) for role, tensor in zip(_ROLES, tensors, strict=False)}


def batch_of(attention: Attention) -> int | ir.SymbolicDim | None:
    """The number of rows, as the graph's `lengths` say it."""
    return attention.lengths.shape[0] if attention.lengths.shape is not None else None


_ROLES = ("key_cache", "value_cache", "key_scale", "value_scale")


def _attention(nodes: tuple[ir.Node, ...], entry: ir.Node) -> Attention:
    """What the nodes compute; `entry` is the one that takes new keys and values, the last one the query."""
    append = OF_MODE["float"][0]
    names = CAUSAL.inputs if len(nodes) == 1 else append.inputs
    roles = dict(zip(names, entry.inputs, strict=True))
    query, key, value = nodes[-1].inputs[0], roles["key"], roles["value"]
    lengths = entry.inputs[-1]
    assert query is not None and key is not None and value is not None and lengths is not None  # noqa: PT018
    scale, window = (nodes[-1].attributes[name] for name in ("scale", "window"))
    return Attention(nodes, module_of(entry), query, key, value, lengths, scale.as_float(), window.as_int())


def _write_layer(
    graph: ir.Graph, attention: Attention, layer: int, cache: KvCache, scales: Scales
) -> tuple[list[ir.Value], list[ir.Value]]:
    """The nodes of one layer; returns what becomes an input and an output of the graph."""
    batch, tensors, names = batch_of(attention), cache.tensors(layer), names_of(graph, attention.nodes)
    values = {name: getattr(attention, name) for name in ("query", "key", "value", "lengths")}
    inputs = interface(cache, layer, batch)
    values |= inputs
    for role, numbers in scales.items():
        values[f"{role}_scale"] = add(graph, f"cache.{layer}.{role}_scale", np.array(numbers, np.float32))
    append, attend = OF_MODE[cache.mode_of(layer)]
    appended = append.node(names.unique(attention.name(append.name)), values)
    for role, output, tensor in zip(_ROLES, appended.outputs, tensors, strict=False):
        values[role] = output
        like = _value(tensor, f"{tensor.name}{OUT}", batch)
        output.name, output.type, output.shape = like.name, like.type, like.shape
    counters = values["counters"] = appended.outputs[-1]
    counters.name, counters.type = f"{appended.name}:counters", ir.TensorType(ir.DataType.INT32)
    attended = attend.node(
        names.unique(attention.name(attend.name)), values, scale=attention.scale, window=attention.window
    )
    partials = attended.outputs[-1]
    partials.name, partials.type = f"{attended.name}:partials", ir.TensorType(ir.DataType.FLOAT)
    replace(graph, attention, [appended, attended])
    return list(inputs.values()), list(appended.outputs[: len(tensors)])


def _value(tensor: CacheTensor, name: str, batch: int | ir.SymbolicDim | None) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(TYPES[tensor.dtype]), shape=ir.Shape([batch, *tensor.row_shape]))
