"""Convolutions that keep the number of frames: centred, or causal so that a stream can be cut anywhere.

ModelOpt quantizes `torch.nn.Conv1d` as it is, and none with a forward of its own. So a convolution only knows what
silence it needs at its ends, and functions put it there.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


class Conv(nn.Conv1d):
    """A convolution whose input needs frames of silence in front and behind."""

    silence = (0, 0)
    times = 1
    """How often each frame is repeated first."""


def padded(layer: nn.Module, x: Tensor) -> Tensor:
    """[batch, inputs, frames] to [batch, outputs, frames], with the silence that the layer needs."""
    assert isinstance(layer, Conv)
    return layer(F.pad(x, layer.silence) if any(layer.silence) else x)


def stretched(layer: nn.Module, x: Tensor) -> Tensor:
    """[batch, inputs, frames] to [batch, outputs, frames * times]."""
    if isinstance(layer, Conv):
        return padded(layer, F.interpolate(x, scale_factor=layer.times))
    return layer(x)


def conv(inputs: int, outputs: int, kernel: int, dilation: int = 1, *, causal: bool) -> Conv:
    """A convolution of stride 1 that looks as far back as ahead, or back only."""
    reach = (kernel - 1) * dilation
    layer = Conv(inputs, outputs, kernel, dilation=dilation, padding=0 if causal else reach // 2)
    layer.silence = (reach, 0) if causal else (0, 0)
    return layer


def ahead(inputs: int, outputs: int, kernel: int) -> Conv:
    """A convolution that looks ahead only."""
    layer = Conv(inputs, outputs, kernel)
    layer.silence = (0, kernel - 1)
    return layer


def stretching(inputs: int, outputs: int, kernel: int, times: int, *, causal: bool) -> nn.Module:
    """For `stretched`: a transposed convolution, or frames repeated and a convolution that looks back only."""
    if not causal:
        return nn.ConvTranspose1d(inputs, outputs, kernel, times, padding=(kernel - times) // 2)
    layer = conv(inputs, outputs, kernel, causal=True)
    layer.times = times
    return layer


def shrinking(inputs: int, outputs: int, times: int, *, causal: bool) -> Conv:
    """A convolution that makes one frame of every `times`; of one, it sees a single frame."""
    if times == 1:
        return Conv(inputs, outputs, 1)
    layer = Conv(inputs, outputs, 2 * times, times, padding=0 if causal else times // 2)
    layer.silence = (times - 1, 0) if causal else (0, 0)
    return layer
