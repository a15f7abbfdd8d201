"""A cache for an exported decoder: its `CausalAttention` nodes become an append and an attention over the cache.

An export does not know the cache's mode or capacity, so that one export serves all variants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.formats import GREATEST
from trtbuild.core.kv_cache import CODES, OUT, CacheFloat, CacheMode, HeadRange, KvCache, LayerRanges
from trtbuild.graph.initializers import add
from trtbuild.graph.kv_cache.operators import CAUSAL, DOMAIN, OF_MODE, UNLIMITED, define
from trtbuild.graph.naming import Names, module_of, names_of

_TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "int8": ir.DataType.INT8,
    "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
}


def attach(
    model: ir.Model,
    capacity: int,
    mode: CacheMode,
    float_type: CacheFloat = "float32",
    exclude: Collection[int] = (),
    ranges: Mapping[int, LayerRanges] | None = None,
) -> KvCache:
    """Give a decoder its cache, in place: inputs and outputs (see `trtbuild.core.kv_cache`), nodes and their bodies.

    `capacity` is in tokens; layers in `exclude` keep keys and values in `float_type`, as all do in mode `float`.
    `ranges` gives static scales by layer: mode `int8_static` needs them, `fp8` takes a scale of 1.0 without (its 448
    exceeds what most models' keys and values reach). Raises ModelError where the model was not exported as a decoder,
    knows fewer positions than `capacity`, or ranges are missing or of another model.
    """
    nodes = _layers(model)
    cache = _describe(nodes, capacity, mode, float_type, exclude)
    scales = {layer: _scales(ranges, layer, cache) for layer in nodes if cache.mode_of(layer) in ("int8_static", "fp8")}
    names = names_of(model.graph)
    for layer, node in nodes.items():
        _replace(model.graph, node, layer, cache, scales.get(layer), names)
    define(model)
    return cache


def _layers(model: ir.Model) -> dict[int, ir.Node]:
    """The nodes to replace, by layer. Raises ModelError where there are none, or layers are missing."""
    nodes = [node for node in model.graph if node.domain == DOMAIN and node.op_type == CAUSAL.name]
    if not nodes:
        raise ModelError(
            "the graph has no attention that a cache could serve",
            hint="export the model as a decoder; an ONNX file from elsewhere brings its own cache or has none",
        )
    found = {_attribute(node, "layer"): node for node in nodes}
    if sorted(found) != list(range(len(nodes))):
        raise ModelError(f"the graph's attention layers are {sorted(found)}: some are missing or there twice")
    return dict(sorted(found.items()))


def _attribute(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int()


def _describe(
    nodes: dict[int, ir.Node], capacity: int, mode: CacheMode, float_type: CacheFloat, exclude: Collection[int]
) -> KvCache:
    if unknown := sorted(set(exclude) - nodes.keys()):
        raise ModelError(f"there is no layer {unknown[0]} to exclude", hint=f"layers are 0 to {len(nodes) - 1}")
    positions = min(_attribute(node, "positions") for node in nodes.values())
    if not 1 <= capacity <= positions:
        raise ModelError(
            f"a cache for {capacity} tokens does not fit a model of {positions} positions",
            hint=f"set the capacity to at most {positions}",
        )
    heads = {(_attribute(node, "kv_heads"), _attribute(node, "head_dim")) for node in nodes.values()}
    if len(heads) > 1:
        found = ", ".join(f"{count} of {size}" for count, size in sorted(heads))
        raise ModelError(f"layers differ in their key heads ({found}); a cache has one shape for all")
    kv_heads, head_dim = heads.pop()
    windows = [_attribute(node, "window") for node in nodes.values()]
    quantized = {layer for layer in nodes if mode != "float" and layer not in exclude}
    return KvCache(
        mode=mode,
        layers=len(nodes),
        kv_heads=kv_heads,
        head_dim=head_dim,
        capacity=capacity,
        dtypes=[CODES[mode] if layer in quantized else float_type for layer in nodes],
        excluded=sorted(exclude) if mode != "float" else [],
        windows=[None if window == UNLIMITED else window for window in windows],
    )


def _scales(ranges: Mapping[int, LayerRanges] | None, layer: int, cache: KvCache) -> dict[str, list[float]]:
    """One scale per head for `key` and `value`."""
    if ranges is None and cache.mode == "fp8":
        return {"key": [1.0] * cache.kv_heads, "value": [1.0] * cache.kv_heads}
    if ranges is None or layer not in ranges:
        raise ModelError(
            f"no ranges of keys and values are given for layer {layer}",
            hint="calibrate the cache, use mode int8 (which needs no calibration), or exclude the layer",
        )
    found = ranges[layer]
    for heads in (found.key, found.value):
        if len(heads) != cache.kv_heads:
            raise ModelError(f"layer {layer} has {cache.kv_heads} key heads, its ranges are of {len(heads)}")
    return {"key": _of_heads(found.key, cache.mode), "value": _of_heads(found.value, cache.mode)}


def _of_heads(heads: list[HeadRange], mode: CacheMode) -> list[float]:
    """Scales of heads; 1.0 for one that was always zero."""
    greatest = GREATEST["fp8" if mode == "fp8" else "int8"]
    return [head.amax / greatest if head.amax > 0 else 1.0 for head in heads]


def _replace(
    graph: ir.Graph, node: ir.Node, layer: int, cache: KvCache, scales: dict[str, list[float]] | None, names: Names
) -> None:
    query, key, value, lengths = node.inputs
    assert query is not None and key is not None and value is not None and lengths is not None  # noqa: PT018
    values = {"query": query, "key": key, "value": value, "lengths": lengths}
    batch = lengths.shape[0] if lengths.shape is not None else None
    tensors = cache.tensors(layer)
    roles = [f"{role}_cache" for role in ("key", "value")] + [f"{role}_scale" for role in ("key", "value")]
    for role, (name, dtype, row_shape) in zip(roles, tensors, strict=False):
        values[role] = ir.Value(name=name, type=ir.TensorType(_TYPES[dtype]), shape=ir.Shape([batch, *row_shape]))
        graph.inputs.append(values[role])
    for role, numbers in (scales or {}).items():
        values[f"{role}_scale"] = add(graph, f"cache.{layer}.{role}_scale", np.array(numbers, np.float32))

    append, attend = OF_MODE[cache.mode_of(layer)]
    module = f"{module_of(node)}/" if module_of(node) else ""
    appended = append.node(names.unique(f"{module}{append.name}"), values)
    for role, output, (name, dtype, row_shape) in zip(roles, appended.outputs, tensors, strict=False):
        output.name, output.type = f"{name}{OUT}", ir.TensorType(_TYPES[dtype])
        output.shape = ir.Shape([batch, *row_shape])
        values[role] = output
        graph.outputs.append(output)
    attended = attend.node(
        names.unique(f"{module}{attend.name}"),
        values,
        **{name: node.attributes[name].value for name in attend.attributes},
    )
    old, new = node.outputs[0], attended.outputs[0]
    new.name, new.type, new.shape = f"{attended.name}:0", old.type, old.shape
    graph.insert_before(node, [appended, attended])
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove(node, safe=True)
