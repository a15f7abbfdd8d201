"""A decoder's float cache becomes a quantized one, so that one export and one AutoCast serve all variants.

Nothing but the cache changes: attention computes the same of the same queries, keys and values. So it does not matter
whether weights are quantized before or after.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.formats import GREATEST
from trtbuild.core.kv_cache import CODES, CacheMode, HeadRange, KvCache, LayerRanges
from trtbuild.graph.kv_cache.layers import Scales, over_floats, write


def quantize_cache(
    model: ir.Model,
    layout: KvCache,
    mode: CacheMode,
    ranges: Mapping[int, LayerRanges] | None = None,
    exclude: Collection[int] = (),
) -> KvCache:
    """Give a decoder with the float cache `layout` a cache of that mode, in place, and say what it is now.

    Layers in `exclude` keep their floats; mode `float` changes nothing. `ranges` gives static scales, by layer: mode
    `int8_static` needs them, `fp8` takes scales of 1.0 without (its 448 exceeds what most models' keys and values
    reach). Raises ModelError where the graph has not that float cache, a layer to exclude does not exist, or ranges
    are missing or of another model.
    """
    if unknown := sorted(set(exclude) - set(range(layout.layers))):
        raise ModelError(f"there is no layer {unknown[0]} to exclude", hint=f"layers are 0 to {layout.layers - 1}")
    layers = over_floats(model, layout)
    if mode == "float":
        return layout
    cache = layout.model_copy(
        update={
            "mode": mode,
            "dtypes": [kept if layer in exclude else CODES[mode] for layer, kept in enumerate(layout.dtypes)],
            "excluded": sorted(set(exclude)),
        }
    )
    scales = _scales(cache, ranges) if mode in ("int8_static", "fp8") else {}
    write(model, layers, cache, scales)
    return cache


def _scales(cache: KvCache, ranges: Mapping[int, LayerRanges] | None) -> dict[int, Scales]:
    """Static scales of every layer that has them."""
    quantized = [layer for layer in range(cache.layers) if layer not in cache.excluded]
    if not ranges:
        if cache.mode == "fp8":
            return {layer: dict.fromkeys(("key", "value"), [1.0] * cache.kv_heads) for layer in quantized}
        raise ModelError(
            f"a cache of mode {cache.mode} needs the range of every layer's keys and values",
            hint="calibrate the cache, or use mode int8, which finds its scales as tokens come",
        )
    if sorted(ranges) != list(range(cache.layers)):
        raise ModelError(
            f"the plan has ranges of layers {sorted(ranges)}, the graph a cache of layers 0 to {cache.layers - 1}",
            hint="calibrate the model that was exported",
        )
    for layer, found in ranges.items():
        for heads in (found.key, found.value):
            if len(heads) != cache.kv_heads:
                raise ModelError(
                    f"layer {layer} has {cache.kv_heads} key heads, its ranges are of {len(heads)}",
                    hint="calibrate the model that was exported",
                )
    return {
        layer: {"key": _of_heads(ranges[layer].key, cache.mode), "value": _of_heads(ranges[layer].value, cache.mode)}
        for layer in quantized
    }


def _of_heads(heads: list[HeadRange], mode: CacheMode) -> list[float]:
    """Scales of heads; 1.0 for one that was always zero."""
    greatest = GREATEST["fp8" if mode == "fp8" else "int8"]
    return [head.amax / greatest if head.amax > 0 else 1.0 for head in heads]
