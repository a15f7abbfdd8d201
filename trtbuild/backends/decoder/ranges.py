"""How far keys and values reach, by head, over calibration samples: what static scales of a cache are made of.

ModelOpt's quantizers for this (`k_bmm_quantizer`, `v_bmm_quantizer`) are not used: they keep one amax for a whole
tensor where the cache has a scale per head, count padding, and come only with a configuration of all other quantizers.
What is seen here is what the cache would hold: keys after the rotary embedding, heads not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trtbuild.backends.decoder.export import attention_through, layer_of
from trtbuild.backends.modelopt.histogram import BINS, Histogram
from trtbuild.core.errors import DataError
from trtbuild.core.kv_cache import HeadRange, LayerRanges
from trtbuild.core.tensor_file import Tensors


def observe_ranges(model: Any, samples: Iterable[Tensors], percentile: float = 99.99) -> dict[int, LayerRanges]:
    """The ranges of every layer's keys and values, by head, for `trtbuild.graph.kv_cache.quantize`.

    Each sample holds the inputs of the model's forward, or of a decoder's (`lengths` of zero). Tokens where a sample's
    `attention_mask` [batch, tokens] is 0 do not count. `amax` is the least magnitude that `percentile` percent of a
    head's elements do not exceed, to 1/4096 of the greatest one: 100 clips nothing, and lets one attention sink make
    all other tokens coarse. Raises DataError where there are no samples.
    """
    layers: dict[int, _Layer] = {}
    counted: list[torch.Tensor | None] = [None]

    def attention(module: Any, query: Any, key: Any, value: Any, *arguments: Any, **asked: Any) -> Any:
        layer = layers.setdefault(layer_of(module), _Layer(key.shape[1]))
        for heads, tensor in ((layer.key, key), (layer.value, value)):
            for number, head in enumerate(heads):
                head.add(tensor[:, number] if counted[0] is None else tensor[:, number][counted[0]])
        return sdpa_attention_forward(module, query, key, value, *arguments, **asked)

    with torch.inference_mode(), attention_through(model, "sdpa", attention):
        for sample in samples:
            mask = sample.get("attention_mask")
            counted[0] = None if mask is None else torch.from_numpy(np.asarray(mask) != 0)
            model(**{name: torch.from_numpy(array) for name, array in sample.items()})
    if not layers:
        raise DataError("there are no samples to see the range of keys and values on", hint="give calibration samples")
    return {number: layer.ranges(percentile) for number, layer in sorted(layers.items())}


class _Layer:
    """One layer's heads."""

    def __init__(self, heads: int) -> None:
        self.key = [_Head() for _ in range(heads)]
        self.value = [_Head() for _ in range(heads)]

    def ranges(self, percentile: float) -> LayerRanges:
        return LayerRanges(
            key=[head.range(percentile) for head in self.key], value=[head.range(percentile) for head in self.value]
        )


class _Head:
    """Magnitudes of one head's elements."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.seen = 0.0

    def add(self, x: torch.Tensor) -> None:
        if x.numel():
            self.histogram.add(x)
            self.seen = max(self.seen, float(x.abs().max()))

    def range(self, percentile: float) -> HeadRange:
        counts = self.histogram.counts
        edge = self.histogram.amax("percentile", percentile) if self.seen else 0.0
        kept = round(edge / self.histogram.top * BINS) if self.seen else BINS
        return HeadRange(
            amax=min(edge, self.seen),
            seen=self.seen,
            saturated=int(counts[kept:].sum()),
            elements=int(counts.sum()),
        )
