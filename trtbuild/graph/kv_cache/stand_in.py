"""Ordinary operators in the place of a decoder's cache, for tools that would run or type the graph and know only those.

ModelOpt's AutoCast is one: an operator of another domain makes it ask for TensorRT. The stand-in computes no attention,
but its output has attention's shape and is no greater than what goes in, so ranges behind it stay in proportion.
"""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import KvCache
from trtbuild.graph.kv_cache.layers import Attention, forget_interface, over_floats, replace, write
from trtbuild.graph.kv_cache.operators import define


def conceal(model: ir.Model, cache: KvCache) -> None:
    """Replace attention over a float cache, in place, by the mean of its query, key and value.

    The cache's tensors leave the graph's inputs and outputs. Raises ModelError where the graph has not that cache.
    """
    layers = over_floats(model, cache)
    forget_interface(model.graph, cache)
    for layer, attention in layers.items():
        before = [_over_all_heads(layer, role, attention) for role in ("key", "value")]
        inputs = [attention.query, *(entry.outputs[0] for entry in before)]
        replace(model.graph, attention, [*before, ir.node("Mean", inputs, name=_name(layer, "query"))])
        for entry in before:
            entry.outputs[0].name = f"{entry.name}:0"
    define(model)


def reveal(model: ir.Model, original: ir.Model, cache: KvCache) -> None:
    """Put attention over the cache back where its stand-in is now, in place; `original` still has it.

    Types may have changed on the way: queries, new keys and new values are what the stand-in takes, the cache stays as
    `cache` says. Raises ModelError where a stand-in is gone.
    """
    nodes = {node.name: node for node in model.graph}
    inputs = {value.name: value for value in model.graph.inputs}
    layers = {}
    for layer, known in over_floats(original, cache).items():
        mean, *before = (nodes.get(_name(layer, role)) for role in ("query", "key", "value"))
        lengths = inputs.get(known.lengths.name)
        if mean is None or None in before or lengths is None:
            raise ModelError(
                f"attention of layer {layer} did not survive the change of the graph's types", hint="build in fp32"
            )
        query = mean.inputs[0]
        key, value = (entry.inputs[0] for entry in before if entry is not None)
        assert query is not None and key is not None and value is not None  # noqa: PT018
        between = [node for entry in before if entry is not None for node in (entry, *_casts_behind(entry))]
        nodes_here = (*between, mean)
        layers[layer] = Attention(nodes_here, known.module, query, key, value, lengths, known.scale, known.window)
    write(model, layers, cache, {})


def _name(layer: int, role: str) -> str:
    """No module's path, so that no pattern of a recipe means a stand-in."""
    return f"cache.{layer}.{role}/stand_in"


def _over_all_heads(layer: int, role: str, attention: Attention) -> ir.Node:
    """Key or value as often as query heads share it; the order of heads does not matter here."""
    heads: ir.Value = getattr(attention, role)
    assert heads.shape is not None and attention.query.shape is not None  # noqa: PT018
    count, shared = attention.query.shape[1], heads.shape[1]
    if not isinstance(count, int) or not isinstance(shared, int):
        raise ModelError(f"layer {layer}: the numbers of query and {role} heads are unknown")
    return ir.node("Concat", [heads] * (count // shared), attributes={"axis": 1}, name=_name(layer, role))


def _casts_behind(node: ir.Node) -> list[ir.Node]:
    return [use.node for use in node.outputs[0].uses() if use.node.op_type == "Cast"]
