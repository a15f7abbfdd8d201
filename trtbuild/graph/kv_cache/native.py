"""A float cache in operators that ONNX itself has since opset 24: `TensorScatter` appends, `Attention` attends.

TensorRT runs them as layers of its own (IKVCacheUpdateLayer, IAttention), without a plugin, and ONNX Runtime as
kernels. Neither knows a cache of INT8 or FP8: those stay with the operators of `trtbuild.graph.kv_cache.operators`.

The same numbers come out as long as
- every new token has a slot: TensorRT drops one that has none, as our operators do, ONNX Runtime refuses the call;
- slots that nobody wrote hold finite numbers, such as zeros: a weight of zero times NaN is NaN;
- each token sees at least one slot.
TensorRT's importer takes no `past_key`, no `nonpad_kv_seqlen` and no causal mask that begins behind a row's length, so
what a token sees is a mask, computed once for all layers with the same window.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import OUT, KvCache
from trtbuild.graph.kv_cache.layers import TYPES, Attention, batch_of, forget_interface, interface, over_floats
from trtbuild.graph.kv_cache.operators import UNLIMITED, define
from trtbuild.graph.rewriting import Rewriting

OPSET = 24
"""The first with TensorScatter."""
LEAST_OPSET = 21
"""From here to `OPSET` operators only gain types and attributes (ONNX changelog): a graph may be called newer."""


def native_cache(model: ir.Model, layout: KvCache) -> None:
    """Write a decoder's float cache, in place, in operators of ONNX 24 alone; inputs and outputs stay what they are.

    For targets whose dialect says `native_cache`. Attention computes in the cache's type. Raises ModelError where the
    graph has not the float cache `layout`, or its opset is older than 21.
    """
    layers = over_floats(model, layout)
    opset = model.opset_imports.get("", 0)
    if opset < LEAST_OPSET:
        raise ModelError(
            f"the graph has opset {opset}; a cache without plugins needs {LEAST_OPSET} or newer",
            hint="export the model with a newer opset",
        )
    graph, masks = model.graph, dict[int, ir.Value]()
    forget_interface(graph, layout)
    for layer, attention in layers.items():
        _write_layer(graph, attention, layer, layout, masks)
    model.opset_imports[""] = max(opset, OPSET)
    define(model)


def _write_layer(
    graph: ir.Graph, attention: Attention, layer: int, layout: KvCache, masks: dict[int, ir.Value]
) -> None:
    """One layer; the first one with a window leaves its mask in `masks` for the others."""
    append, attend = attention.nodes
    kind, nodes = TYPES[layout.dtypes[layer]], Rewriting(graph, attend)
    if attention.window not in masks:
        masks[attention.window] = _seen(nodes, attention, layout.capacity)
    held = []
    for cache, new in zip(
        interface(layout, layer, batch_of(attention)).values(), (attention.key, attention.value), strict=True
    ):
        written = nodes.op("TensorScatter", cache, _as(nodes, new, kind), attention.lengths, axis=-2)
        written.name, written.shape = f"{cache.name}{OUT}", cache.shape
        graph.inputs.append(cache)
        graph.outputs.append(written)
        held.append(written)
    query = _as(nodes, attention.query, kind)
    output = nodes.op("Attention", query, *held, masks[attention.window], scale=attention.scale)
    assert attention.query.dtype is not None
    nodes.replace(_as(nodes, output, attention.query.dtype))
    graph.remove(append, safe=True)


def _seen(nodes: Rewriting, attention: Attention, capacity: int) -> ir.Value:
    """Which slots each new token sees: bool [batch, 1, tokens, capacity]."""
    zero, one = nodes.constant("zero", np.array(0)), nodes.constant("one", np.array(1))
    tokens = nodes.op("Squeeze", nodes.op("Shape", attention.query, dtype=ir.DataType.INT64, start=2, end=3))
    token = nodes.op("Unsqueeze", nodes.op("Range", zero, tokens, one), nodes.constant("last_axis", np.array([1])))
    start = nodes.op("Unsqueeze", attention.lengths, nodes.constant("axes", np.array([1, 2, 3])))
    position, slot = nodes.op("Add", start, token), nodes.constant("slots", np.arange(capacity))
    seen = nodes.op("LessOrEqual", slot, position, dtype=ir.DataType.BOOL)
    if attention.window == UNLIMITED:
        return seen
    before = nodes.op("Sub", position, nodes.constant("window", np.array(attention.window)))
    return nodes.op("And", seen, nodes.op("Greater", slot, before, dtype=ir.DataType.BOOL))


def _as(nodes: Rewriting, value: ir.Value, kind: ir.DataType) -> ir.Value:
    return value if value.dtype == kind else nodes.op("Cast", value, dtype=kind, to=kind)
