"""HiFTNet: a neural source filter in front of an inverse short-time Fourier transform (Li et al. 2023).

Names are those of hift.pt. The causal form is CosyVoice3's.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from hift_vocoder.convolution import ahead, conv, padded, shrinking, stretched, stretching
from hift_vocoder.fourier import ShortTimeFourier
from hift_vocoder.source import PitchPredictor, Source

LOUDEST = math.log(100)
"""The logarithm at which a magnitude is cut. Cut before the exponential, which then overflows in no type."""


class Hift(nn.Module):
    """Spectrogram to waveform. The sizes are those of CosyVoice2-0.5B's YAML."""

    output_names = ("speech", "source")

    def __init__(
        self,
        *,
        mels: int = 80,
        width: int = 512,
        pitch_width: int = 512,
        harmonics: int = 9,
        sample_rate: int = 24000,
        upsample_rates: Sequence[int] = (8, 5, 3),
        upsample_kernels: Sequence[int] = (16, 11, 7),
        kernels: Sequence[int] = (3, 7, 11),
        source_kernels: Sequence[int] = (7, 7, 11),
        dilations: Sequence[int] = (1, 3, 5),
        window: int = 16,
        window_hop: int = 4,
        causal: bool = False,
    ) -> None:
        super().__init__()
        hop, bins = math.prod(upsample_rates) * window_hop, window + 2
        self.f0_predictor = PitchPredictor(mels, pitch_width, causal=causal)
        self.m_source = Source(sample_rate, hop, harmonics, causal=causal)
        self.fourier = ShortTimeFourier(window, window_hop)
        self.conv_pre = ahead(mels, width, 5) if causal else conv(mels, width, 7, causal=False)
        self.ups, self.source_downs, self.source_resblocks, self.resblocks = (nn.ModuleList() for _ in range(4))
        for stage, (rate, kernel, own) in enumerate(zip(upsample_rates, upsample_kernels, source_kernels, strict=True)):
            narrow = width >> (stage + 1)
            self.ups.append(stretching(width >> stage, narrow, kernel, rate, causal=causal))
            self.source_downs.append(shrinking(bins, narrow, math.prod(upsample_rates[stage + 1 :]), causal=causal))
            self.source_resblocks.append(ResBlock(narrow, own, dilations, causal=causal))
            self.resblocks.extend(ResBlock(narrow, each, dilations, causal=causal) for each in kernels)
        self.conv_post = conv(narrow, bins, 7, causal=causal)
        self.blocks = len(kernels)

    def forward(self, mel: Tensor, noise: Tensor, cache: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """`mel` [batch, mels, frames] and standard normal `noise` [batch, frames, hop * harmonics] to the waveform
        [batch, frames * hop] and its source [batch, frames, hop].

        Where `cached` [batch, frames, 1] is 1 the source is taken from `cache` [batch, frames, hop], so that a stream's
        chunks meet without a click; elsewhere it is 0.
        """
        source = self.m_source(self.f0_predictor(mel), noise)
        source = cached * cache + (1 - cached) * source
        return self.speech(mel, self.fourier(source.flatten(1))), source

    def speech(self, mel: Tensor, excitation: Tensor) -> Tensor:
        """A spectrogram and the transform of its source to a waveform between -0.99 and 0.99."""
        x = padded(self.conv_pre, mel)
        for stage, (up, down, own) in enumerate(zip(self.ups, self.source_downs, self.source_resblocks, strict=True)):
            x = stretched(up, F.leaky_relu(x, 0.1))
            if stage == len(self.ups) - 1:  # the transform has one frame more than there are steps
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + own(padded(down, excitation))
            parallel = self.resblocks[stage * self.blocks : (stage + 1) * self.blocks]
            x = functools.reduce(operator.add, [block(x) for block in parallel]) / self.blocks
        magnitude, phase = padded(self.conv_post, F.leaky_relu(x, 0.01)).chunk(2, dim=1)
        return self.fourier.inverse(magnitude.clamp(max=LOUDEST).exp(), phase.sin()).clamp(-0.99, 0.99)


class ResBlock(nn.Module):
    """Three residual pairs of convolutions, the first of each with growing dilation."""

    def __init__(self, width: int, kernel: int, dilations: Sequence[int], *, causal: bool) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList([conv(width, width, kernel, each, causal=causal) for each in dilations])
        self.convs2 = nn.ModuleList([conv(width, width, kernel, causal=causal) for _ in dilations])
        self.activations1, self.activations2 = (nn.ModuleList([Snake(width) for _ in dilations]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, steps]."""
        for bend1, conv1, bend2, conv2 in zip(
            self.activations1, self.convs1, self.activations2, self.convs2, strict=True
        ):
            x = x + padded(conv2, bend2(padded(conv1, bend1(x))))
        return x


class Snake(nn.Module):
    """x + sin(a x)^2 / a, with an `a` for each channel (Liu et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, steps]."""
        alpha = self.alpha[:, None]
        return x + (alpha * x).sin().square() / (alpha + 1e-9)
