"""A layer to quantize: its nodes, its weight, and its numbers while smoothing moves scales about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtbuild.core.formats import FORMATS, GREATEST, Traits
from trtbuild.core.quantization import ModuleQuantization, values_of
from trtbuild.core.tensor_file import Array
from trtbuild.graph.initializers import constant


@dataclass
class Layer:
    """One module with a constant weight: a linear, whose weight is a matrix, or a convolution.

    Every method speaks of the weight with output channels first, [out, in] or [out, in, *kernel], whatever the graph
    stores.
    """

    module: str
    numbers: ModuleQuantization
    nodes: list[ir.Node]
    """Its products, one for each call of the module, all with the same weight."""
    weight: ir.Value
    axis: int
    """The stored weight's axis of output channels."""
    weight_amax: Array
    """float32, after `divisor`, before `factor`: [] per tensor, [out] per channel, [out, blocks]."""
    input_amax: float | None
    """Greatest magnitude of the smoothed input; None where the input stays as it is."""
    divisor: Array | None = None
    """[in] float32: input channels of the weight are divided by it (SmoothQuant's 1/s)."""
    factor: Array | None = None
    """[out] float32: output channels are multiplied by it, for a consumer's scale folded in here."""

    @property
    def traits(self) -> Traits:
        """What its format does."""
        return FORMATS[self.numbers.format]

    @property
    def block_size(self) -> int:
        """Neighbouring inputs that share a scale, at most the layer's inputs; 0 where there are no blocks."""
        if self.traits.granularity not in ("block", "tile"):
            return 0
        assert self.weight.shape is not None
        return min(self.numbers.block_size or self.traits.block, self.weight.shape.numpy()[1 - self.axis])

    def smoothed(self) -> Array:
        """The weight in float32, input channels divided."""
        tensor = constant(self.weight)
        assert tensor is not None
        matrix = np.moveaxis(tensor.numpy().astype(np.float32), self.axis, 0)
        return matrix if self.divisor is None else matrix / self.divisor

    def follow_graph(self) -> None:
        """Take the greatest magnitudes from the graph's weight where that is not the weight that was calibrated.

        Exporters fold a batch norm into the convolution or Gemm before it, which multiplies output channels. What a
        layer reads stays what it was, and so does its range.
        """
        greatest = self._greatest(self.smoothed())
        ratio = self.weight_amax / np.maximum(greatest, np.finfo(np.float32).tiny)
        least = 0.3 if self.traits.algorithm == "awq" else 0.999  # AWQ may have clipped what it calibrated
        if np.any((ratio < least) | (ratio > 1.001)):
            self.weight_amax = greatest

    def rescale(self, divisor: Array) -> None:
        """Divide the weight's input channels by another vector, and follow with `weight_amax`."""
        before = self._greatest(self.smoothed())
        self.divisor = divisor
        self.weight_amax = _followed(self.weight_amax, before, self._greatest(self.smoothed()))

    def scaled(self) -> tuple[Array, Array]:
        """The weight that the graph computes with, and its greatest magnitudes, both float32."""
        matrix, amax = self.smoothed(), self.weight_amax
        if self.factor is None:
            return matrix, amax
        scaled = matrix * _first(self.factor, matrix.ndim)
        if amax.ndim == 0:
            return scaled, _followed(amax, self._greatest(matrix), self._greatest(scaled))
        # A row's scale follows the row's factor, and its codes stay as they are.
        return scaled, amax * _first(np.abs(self.factor), amax.ndim)

    def codes_fit(self) -> bool:
        """Whether the plan's codes, if it has any, say about this weight and not another one.

        A norm that an exporter folded in gives each row another length. Rounding that compensates, and training, move a
        row in any direction but hardly along itself: by 7 % at most where GPTQ was tried in INT4, 0.3 % in INT8.
        """
        if self.numbers.weight_codes is None:
            return True
        matrix, scale = self.smoothed(), self.weight_amax / np.float32(GREATEST[self.traits.weight])
        said = values_of(self.numbers.weight_codes, self.traits.weight) * self.expanded(scale)
        if np.linalg.norm(said - matrix) > 0.5 * np.linalg.norm(matrix):
            return False
        squares = np.square(matrix).sum(axis=1)
        along = (said * matrix).sum(axis=1)[squares > 0] / squares[squares > 0]
        return bool(np.mean(np.abs(along - 1) > 0.15) <= 0.05) if along.size else True

    def expanded(self, scale: Array) -> Array:
        """A scale [], [out] or [out, blocks], shaped to broadcast against the weight."""
        if scale.ndim == 2:
            assert self.weight.shape is not None
            return np.repeat(scale, self.block_size, axis=1)[:, : self.weight.shape.numpy()[1 - self.axis]]
        return _first(scale, len(self.weight.shape or ())) if scale.ndim == 1 else scale

    def _greatest(self, matrix: Array) -> Array:
        """Greatest magnitudes, grouped as the format's scales are."""
        if self.traits.granularity == "tensor":
            return np.asarray(np.abs(matrix).max())
        if self.traits.granularity == "channel":
            return np.asarray(np.abs(matrix).reshape(len(matrix), -1).max(axis=1))
        starts = np.arange(0, matrix.shape[1], self.block_size)
        blocks = np.maximum.reduceat(np.abs(matrix), starts, axis=1)
        if self.traits.granularity == "tile":
            rows = np.arange(0, len(blocks), self.traits.block)
            tiles = np.maximum.reduceat(blocks, rows, axis=0)
            blocks = np.repeat(tiles, self.traits.block, axis=0)[: len(matrix)]
        return np.asarray(blocks)


def _followed(amax: Array, before: Array, after: Array) -> Array:
    """What `amax` becomes where the greatest magnitude goes from `before` to `after`: a clip keeps its share."""
    if np.allclose(amax, before, rtol=1e-5, atol=0.0):
        return after
    return np.asarray(np.where(before > 0, amax * after / np.where(before > 0, before, 1), after), np.float32)


def _first(vector: Array, rank: int) -> Array:
    """[n], shaped to broadcast along the first of `rank` axes."""
    return vector.reshape(-1, *[1] * (rank - 1))
