"""The short-time Fourier transform and its inverse, as convolutions with fixed waves.

ONNX's STFT has no inverse, and complex numbers do not export. A window of 16 samples has 9 frequencies: as a
convolution with 18 fixed kernels it is exact, and every runtime has it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


class ShortTimeFourier(nn.Module):
    """Both directions, with a periodic Hann window and frames centred on every `hop`-th sample, as `torch.stft` has
    them by default. Nothing of it is in a checkpoint."""

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.half, self.hop = window // 2, hop
        time = torch.arange(window, dtype=torch.float64)
        hann = 0.5 - 0.5 * torch.cos(2 * math.pi * time / window)
        frequency = torch.arange(self.half + 1, dtype=torch.float64)[:, None]
        angle = 2 * math.pi * frequency * time / window
        waves = torch.cat([angle.cos(), -angle.sin()])
        # A real signal has each frequency but the first and the last twice, once for each sign.
        twice = torch.full((self.half + 1, 1), 2.0, dtype=torch.float64)
        twice[0] = twice[-1] = 1
        back = torch.cat([twice, twice]) * waves / window
        self.register_buffer("analysis", (waves * hann)[:, None].float(), persistent=False)
        self.register_buffer("synthesis", (back * hann)[:, None].float(), persistent=False)
        self.register_buffer("overlap", (hann**2)[None, None].float(), persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        """[batch, samples] to [batch, window + 2, samples / hop + 1]: real parts, then imaginary parts."""
        padded = F.pad(signal.unsqueeze(1), (self.half, self.half), mode="reflect")
        return F.conv1d(padded, self.analysis, stride=self.hop)

    def inverse(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        """Two of [batch, window / 2 + 1, frames] to [batch, (frames - 1) * hop] samples.

        Frames are added where they overlap and divided by the sum of the squared windows there (Griffin and Lim 1984).
        """
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)
        signal = F.conv_transpose1d(spectrum, self.synthesis, stride=self.hop)
        windows = F.conv_transpose1d(torch.ones_like(spectrum[:, :1]), self.overlap, stride=self.hop)
        inside = slice(self.half, -self.half)
        return (signal[..., inside] / windows[..., inside]).squeeze(1)
