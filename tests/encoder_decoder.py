"""A small encoder-decoder after T5: relative position bias, RMSNorm, gated MLP, cross-attention, two inputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

WIDTH, HEADS, WORDS, REACH = 64, 4, 100, 8


class Rms(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019), without a mean and without a bias."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Attention(nn.Module):
    """Attention with a learned bias for each distance up to REACH where `biased`; `causal` looks back alone."""

    def __init__(self, *, biased=True, causal=False):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.bias = nn.Embedding(2 * REACH + 1, HEADS) if biased else None
        self.causal = causal

    def forward(self, x, memory):
        def split(t):
            return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(memory)), split(self.v(memory))
        scores = q @ k.transpose(-1, -2)
        if self.bias is not None:
            distance = torch.arange(memory.shape[1])[None, :] - torch.arange(x.shape[1])[:, None]
            scores = scores + self.bias(distance.clamp(-REACH, REACH) + REACH).permute(2, 0, 1)[None]
            if self.causal:
                scores = scores.masked_fill(distance > 0, -1e4)
        return self.o((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(-2))


class Gated(nn.Module):
    """GELU-gated MLP (Shazeer 2020)."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return self.down(nn.functional.gelu(self.gate(x), approximate="tanh") * self.up(x))


class Encoder(nn.Module):
    """One block: 7 linears."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Rms(), Rms()
        self.attention, self.mlp = Attention(), Gated()

    def forward(self, x):
        normed = self.norm1(x)
        x = x + self.attention(normed, normed)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """One block with attention to the encoder's output: 11 linears."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = Rms(), Rms(), Rms()
        self.attention, self.cross, self.mlp = Attention(causal=True), Attention(biased=False), Gated()

    def forward(self, x, memory):
        normed = self.norm1(x)
        x = x + self.attention(normed, normed)
        x = x + self.cross(self.norm2(x), memory)
        return x + self.mlp(self.norm3(x))


class EncoderDecoder(nn.Module):
    """Token numbers of both sides in, logits of the decoder's side out."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.between, self.last = Rms(), Rms()
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, source_ids, target_ids):
        memory = self.between(self.encoder(self.words(source_ids)))
        return self.lm_head(self.last(self.decoder(self.words(target_ids), memory)))


def make(seed=0):
    """The model with random weights."""
    torch.manual_seed(seed)
    return EncoderDecoder()


def samples(split, count):
    """Random sentences, four a batch; the source is longer than the target."""
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 4):
        yield {"source_ids": rng.integers(0, WORDS, (4, 12)), "target_ids": rng.integers(0, WORDS, (4, 7))}
