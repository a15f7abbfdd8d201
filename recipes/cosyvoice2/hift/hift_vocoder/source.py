"""Pitch to excitation: a hum of harmonics where there is voice, noise where there is none (Wang et al. 2019, 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from hift_vocoder.convolution import ahead, conv, padded

HUM, BREATH = 0.1, 0.003
"""Amplitudes: of a harmonic, and of the noise beside it. Without voice the noise is a third of a harmonic."""
LEAST_HZ = 10.0
"""A lower pitch is no voice."""


class PitchPredictor(nn.Module):
    """Spectrogram to pitch, in Hz."""

    def __init__(self, mels: int, width: int, *, causal: bool) -> None:
        super().__init__()
        first = ahead(mels, width, 4) if causal else conv(mels, width, 3, causal=False)
        layers = [first, *(conv(width, width, 3, causal=causal) for _ in range(4))]
        # Every other place is an activation's, in the checkpoint's names.
        self.condnet = nn.ModuleList([each for layer in layers for each in (layer, nn.Identity())])
        self.classifier = nn.Linear(width, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """[batch, mels, frames] to [batch, frames]."""
        hidden = mel
        for layer in self.condnet[::2]:
            hidden = F.elu(padded(layer, hidden))
        return self.classifier(hidden.transpose(1, 2)).squeeze(-1).abs()


class Source(nn.Module):
    """Pitch to excitation, one value a sample.

    The original counts a harmonic's phase at every frame and draws lines between the frames' middles; its whole cycles,
    which a sine does not hear, grow until FP32 cannot count them. Here only the fraction is carried on. The original's
    random first phase is left out: it touches one sample that no later one is made from.
    """

    def __init__(self, sample_rate: int, hop: int, harmonics: int, *, causal: bool) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.causal = sample_rate, hop, causal
        self.l_linear = nn.Linear(harmonics, 1)
        middle = (torch.arange(hop) + 0.5) / hop - 0.5
        self.register_buffer("before", middle.clamp(max=0), persistent=False)
        self.register_buffer("after", middle.clamp(min=0), persistent=False)
        self.register_buffer("multiples", torch.arange(1, harmonics + 1).float(), persistent=False)

    def forward(self, pitch: Tensor, noise: Tensor) -> Tensor:
        """`pitch` [batch, frames] in Hz, `noise` [batch, frames, hop * harmonics] to [batch, frames, hop]."""
        noise = noise.unflatten(-1, (self.hop, -1))
        voiced = (pitch > LEAST_HZ).to(noise.dtype)[..., None, None]
        sines = torch.sin(2 * math.pi * self.cycles(pitch)) * HUM
        hum = sines * voiced + (voiced * BREATH + (1 - voiced) * HUM / 3) * noise
        return torch.tanh(self.l_linear(hum)).squeeze(-1)

    def cycles(self, pitch: Tensor) -> Tensor:
        """How often each harmonic has turned, but for whole turns: [batch, frames, hop, harmonics]."""
        turns = torch.remainder(pitch[..., None] * self.multiples / self.sample_rate, 1) * self.hop
        count = torch.cumsum(torch.remainder(turns, 1), dim=1)[:, :, None]
        if self.causal:
            return count.expand(-1, -1, self.hop, -1)
        still = torch.zeros_like(turns[:, :1])
        arriving, leaving = torch.cat([still, turns[:, 1:]], dim=1), torch.cat([turns[:, 1:], still], dim=1)
        return count + arriving[:, :, None] * self.before[:, None] + leaving[:, :, None] * self.after[:, None]
