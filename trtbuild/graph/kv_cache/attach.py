"""A cache for an exported decoder: its `CausalAttention` nodes become an append and an attention over the cache.

An export does not know the cache's capacity. The cache is a float one; `quantize_cache` makes it another.

One graph reads prompts and writes tokens. A second one with its tokens fixed to one would gain nothing: ONNX Runtime
takes the same time for a step of both (measured: 2.57 and 2.53 ms), and TensorRT takes a profile and an execution
context for each.
"""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import CacheFloat, KvCache
from trtbuild.graph.kv_cache.layers import Attention, exported, write
from trtbuild.graph.kv_cache.operators import UNLIMITED


def attach(model: ir.Model, capacity: int, float_type: CacheFloat = "float32") -> KvCache:
    """Give a decoder its cache, in place: inputs and outputs (see `trtbuild.core.kv_cache`), nodes and their bodies.

    `capacity` is in tokens. Raises ModelError where the model was not exported as a decoder or knows fewer positions
    than `capacity`.
    """
    layers = exported(model)
    cache = _describe(layers, capacity, float_type)
    write(model, layers, cache, {})
    return cache


def _describe(layers: dict[int, Attention], capacity: int, float_type: CacheFloat) -> KvCache:
    positions = min(_attribute(attention, "positions") for attention in layers.values())
    if not 1 <= capacity <= positions:
        raise ModelError(
            f"a cache for {capacity} tokens does not fit a model of {positions} positions",
            hint=f"set the capacity to at most {positions}",
        )
    heads = {(_attribute(attention, "kv_heads"), _attribute(attention, "head_dim")) for attention in layers.values()}
    if len(heads) > 1:
        found = ", ".join(f"{count} of {size}" for count, size in sorted(heads))
        raise ModelError(f"layers differ in their key heads ({found}); a cache has one shape for all")
    kv_heads, head_dim = heads.pop()
    return KvCache(
        mode="float",
        layers=len(layers),
        kv_heads=kv_heads,
        head_dim=head_dim,
        capacity=capacity,
        dtypes=[float_type] * len(layers),
        excluded=[],
        windows=[None if layer.window == UNLIMITED else layer.window for layer in layers.values()],
    )


def _attribute(attention: Attention, name: str) -> int:
    return attention.nodes[0].attributes[name].as_int()
