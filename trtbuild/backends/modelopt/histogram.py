"""How often an activation had which magnitude, and the greatest magnitude that INT8 should say.

ModelOpt 0.47 has these calibrators too. They are not used, because its mean squared error takes the first candidate
whatever the data (`fake_tensor_quant` is called with the number of bits where its bias belongs), and its histogram
keeps the bin width of the first batch: values 100 times greater make 100 times as many bins, and entropy's time grows
with their square.
"""

from __future__ import annotations

import numpy as np
import torch

from trtbuild.core.formats import GREATEST
from trtbuild.core.tensor_file import Array

BINS = 8192
ENTROPY_BINS = 2048
"""As ModelOpt and TensorRT have: finer ones are empty where values are few, and the divergence then measures that."""
LEVELS = 128
"""Magnitudes that INT8 can say, zero included."""
CANDIDATES = 512
"""Greatest magnitudes that are tried, in equal ratios from `LEVELS` bins to all of them."""
_EXACT = 1 << 24
"""float32 counts in ones up to here, and `torch.histc` counts in the type of its input."""
_ALMOST_NONE = 1e-4


class Histogram:
    """Counts of |x| in `BINS` equal bins from 0 to `top`. Where a greater value comes, `top` doubles and pairs of bins
    merge, so counts stay exact and memory stays what it is."""

    def __init__(self) -> None:
        self.counts: Array = np.zeros(BINS, np.int64)
        self.top = 0.0
        """The upper edge of the last bin."""

    def add(self, x: torch.Tensor) -> None:
        """Count the values of one finite tensor."""
        magnitude = x.detach().float().abs().flatten()
        greatest = float(magnitude.max()) if magnitude.numel() else 0.0
        if greatest == 0.0:
            self.counts[0] += magnitude.numel()
            return
        if self.top == 0.0:
            self.top = greatest
        while self.top < greatest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2
        for piece in magnitude.split(_EXACT):
            self.counts += torch.histc(piece, BINS, min=0.0, max=self.top).numpy().astype(np.int64)

    def amax(self, method: str, percentile: float) -> float:
        """The greatest magnitude to say by `percentile`, `entropy` or `mse`; 0 where every value was zero."""
        if self.top == 0.0:
            return 0.0
        if method == "percentile":
            return self._edge(self._bins_below(percentile))
        if method == "mse":
            return self._edge(min(_candidates(self.counts), key=self._squared_error))
        counts = self.counts.reshape(ENTROPY_BINS, -1).sum(1)
        bins = min(_candidates(counts), key=lambda bins: _divergence(counts, bins))
        return self._edge(bins * BINS // ENTROPY_BINS)

    def _edge(self, bins: int) -> float:
        return self.top * bins / BINS

    def _bins_below(self, percentile: float) -> int:
        """The fewest bins that hold this percentage of all values."""
        total = np.cumsum(self.counts)
        return 1 + int(np.searchsorted(total, total[-1] * (percentile / 100.0)))

    def _squared_error(self, bins: int) -> float:
        """Squared error of rounding every value, where it stands in the middle of its bin, to INT8 that ends here."""
        middles = (np.arange(BINS) + 0.5) * (self.top / BINS)
        scale = self._edge(bins) / GREATEST["int8"]
        rounded = np.clip(np.rint(middles / scale), 0.0, GREATEST["int8"]) * scale
        return float(((rounded - middles) ** 2 * self.counts).sum())


def _candidates(counts: Array) -> list[int]:
    """How many bins to keep, from `LEVELS` to all that hold values."""
    last = max(LEVELS, 1 + int(np.flatnonzero(counts)[-1]))
    steps = np.geomspace(LEVELS, last, CANDIDATES).round().astype(int)
    return [int(bins) for bins in np.unique(steps)]


def _divergence(histogram: Array, bins: int) -> float:
    """Kullback-Leibler divergence of a histogram, cut to so many bins, from its form in `LEVELS` levels.

    Migacz 2017, "8-bit inference with TensorRT": what is cut off counts in the last bin; a level's count is spread
    evenly over those of its bins that hold values. As in ModelOpt the first bin takes the second's count, since zeros
    round to zero whatever the scale. Where nothing is said but cut-off values are seen, MXNet's small count stands in
    for none: the divergence would be infinite, and a lone outlier would never be cut off.
    """
    counts = histogram.astype(np.float64)
    counts[0] = counts[1]
    kept = counts[:bins]
    level = np.arange(bins) * LEVELS // bins
    held = np.bincount(level, weights=kept > 0)
    spread = np.bincount(level, weights=kept) / np.maximum(held, 1.0)
    said = np.maximum(np.where(kept > 0, spread[level], 0.0), _ALMOST_NONE)
    seen = kept.copy()
    seen[-1] += counts[bins:].sum()
    here = seen > 0
    seen, said = seen[here] / seen.sum(), said[here] / said.sum()
    return float((seen * np.log(seen / said)).sum())
