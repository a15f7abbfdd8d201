"""A decoder's tensors: which ones it takes and how large they get follows from its capacity and its batch alone."""

from __future__ import annotations

from typing import cast

from trtbuild.core.kv_cache import KvCache
from trtbuild.core.tensors import AxisRange, DType, Shapes, TensorSpec

TOKENS, LENGTHS = "input_ids", "lengths"


def decoder_shapes(capacity: int, batch: AxisRange, prompt: int) -> Shapes:
    """The inputs of an exported decoder: new tokens [batch, tokens], and how many each row has already, [batch]."""
    return Shapes(
        inputs={
            TOKENS: TensorSpec(dtype="int64", dims=["batch", "tokens"]),
            LENGTHS: TensorSpec(dtype="int64", dims=["batch"]),
        },
        axes={"batch": batch, "tokens": AxisRange(min=1, opt=prompt, max=capacity)},
    )


def text_shapes(shapes: Shapes) -> Shapes:
    """What a decoder's samples are: whole texts, without a cache behind them."""
    return Shapes(inputs={TOKENS: shapes.inputs[TOKENS]}, axes=shapes.axes)


def with_cache(shapes: Shapes, layout: KvCache) -> Shapes:
    """The inputs of a decoder that has its cache: the cache's tensors come last, as in the graph."""
    caches = {
        tensor.name: TensorSpec(dtype=cast(DType, tensor.dtype), dims=["batch", *tensor.row_shape])
        for layer in range(layout.layers)
        for tensor in layout.tensors(layer)
    }
    return Shapes(inputs={**shapes.inputs, **caches}, axes=shapes.axes)
