"""A small diffusion transformer block (DiT, Peebles and Xie 2023): patches, adaLN modulation, tanh GELU."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

WIDTH, HEADS, CHANNELS, SIDE, PATCH = 64, 4, 4, 8, 2


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition: 5 linears."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(2))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        nn.init.normal_(self.modulation.weight, std=0.7)  # zero at first in the paper; trained, the gates are open

    def forward(self, x, condition):
        modulation = self.modulation(nn.functional.silu(condition)).unsqueeze(1).chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        q, k, v = self.qkv(self.norm1(x) * (1 + scale1) + shift1).unflatten(-1, (3, HEADS, -1)).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        p = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        x = x + gate1 * self.proj((p @ v).transpose(1, 2).flatten(-2))
        hidden = nn.functional.gelu(self.fc1(self.norm2(x) * (1 + scale2) + shift2), approximate="tanh")
        return x + gate2 * self.fc2(hidden)


class Diffusion(nn.Module):
    """A noisy latent [batch, 4, 8, 8] and its time step [batch] in, the noise [batch, 4, 8, 8] out."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)
        self.position = nn.Parameter(0.5 * torch.randn(1, (SIDE // PATCH) ** 2, WIDTH))
        self.time1, self.time2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.block = Block()
        self.last = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.proj_out = nn.Linear(WIDTH, CHANNELS * PATCH**2)

    def forward(self, latent, timestep):
        rates = torch.exp(torch.arange(WIDTH // 2) * (-math.log(10000) / (WIDTH // 2)))
        angles = timestep[:, None] * rates[None]
        condition = self.time2(nn.functional.silu(self.time1(torch.cat([angles.cos(), angles.sin()], -1))))
        x = self.patches(latent).flatten(2).transpose(1, 2) + self.position
        x = self.proj_out(self.last(self.block(x, condition)))
        side = SIDE // PATCH
        return (
            x.unflatten(-1, (CHANNELS, PATCH, PATCH))
            .unflatten(1, (side, side))
            .permute(0, 3, 1, 4, 2, 5)
            .reshape(-1, CHANNELS, SIDE, SIDE)
        )


def make(seed=0):
    """The model with random weights."""
    torch.manual_seed(seed)
    return Diffusion()


def samples(split, count):
    """Noise at random time steps, four a batch."""
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 4):
        yield {
            "latent": rng.standard_normal((4, CHANNELS, SIDE, SIDE)).astype(np.float32),
            "timestep": rng.uniform(0, 1000, 4).astype(np.float32),
        }
