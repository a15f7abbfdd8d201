"""CosyVoice3's flow-matching estimator: a diffusion transformer in place of CosyVoice2's U-Net.

Du et al. 2025, "CosyVoice 3: Towards In-the-wild Speech Generation"; the network is that of F5-TTS (Chen et al. 2024),
a DiT (Peebles and Xie 2023) over spectrogram frames. Names are those of the checkpoint's `decoder.estimator`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from trtbuild.checkpoints import load_checkpoint

PREFIX = "decoder.estimator."
"""Where the estimator's tensors are in flow.pt; the rest of the file stays in PyTorch."""
MASKED = -1e4
"""Added to a score that must not count: its exponential is 0 in every float type, and it fits into FP16."""


def estimator(
    files: Sequence[Path] = (),
    *,
    mels: int = 80,
    width: int = 1024,
    heads: int = 16,
    depth: int = 22,
    mlp_ratio: int = 2,
    chunk: int = 0,
) -> nn.Module:
    """The estimator with the weights of flow.pt, which the recipe lists under `model.factory.files`.

    The sizes are those of CosyVoice3-0.5B's YAML. `chunk` is for streaming: frames see no further than the end of their
    own chunk of that many frames (50 in the original); 0 lets each see all. Raises ModelError with the first ten
    differences where the file does not fit.
    """
    model = Estimator(mels, width, heads, depth, mlp_ratio, chunk)
    return load_checkpoint(model, *files, rename=_own)


def _own(name: str) -> str | None:
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


class Estimator(nn.Module):
    """The velocity [batch, mels, frames] that carries noise to speech, at a time between 0 and 1."""

    output_names = ("estimator_out",)

    def __init__(self, mels: int, width: int, heads: int, depth: int, mlp_ratio: int, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.time_embed = TimeEmbedding(width)
        self.input_embed = InputEmbedding(4 * mels, width)
        self.rotary_embed = Rotary(width // heads)
        self.transformer_blocks = nn.ModuleList([Block(width, heads, mlp_ratio) for _ in range(depth)])
        self.norm_out = ModulatedNorm(width, 2)
        self.proj_out = nn.Linear(width, mels)

    def forward(self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor) -> Tensor:
        """`x` the noisy spectrogram, `mu` the tokens' and `cond` the prompt's, [batch, mels, frames]; `mask` [batch, 1,
        frames] is 1 where there is speech; `t` [batch]; `spks` [batch, mels] the speaker."""
        time = self.time_embed(t)
        hidden = self.input_embed(torch.cat([x, cond, mu, spks.unsqueeze(-1).expand_as(x)], dim=1).transpose(1, 2))
        speech, bias = mask.transpose(1, 2), self.bias(mask)
        cos, sin = self.rotary_embed(x.shape[-1])
        for block in self.transformer_blocks:
            hidden = block(hidden, time, speech, bias, cos, sin)
        hidden, _ = self.norm_out(hidden, time)
        return self.proj_out(hidden).transpose(1, 2)

    def bias(self, mask: Tensor) -> Tensor:
        """What is added to the scores: [batch, 1, 1, frames], or one row for each frame where there are chunks."""
        seen = mask.unsqueeze(1)
        if self.chunk:
            frame = torch.arange(mask.shape[-1])
            end = (frame // self.chunk + 1) * self.chunk
            seen = seen * (frame[None, :] < end[:, None]).to(mask.dtype)
        return (1 - seen) * MASKED


class TimeEmbedding(nn.Module):
    """A time as 256 sines and cosines (Ho et al. 2020), then two linears with a SiLU between them."""

    def __init__(self, width: int, waves: int = 256) -> None:
        super().__init__()
        rates = 1000 * torch.exp(torch.arange(waves // 2) * (-math.log(10000) / (waves // 2 - 1)))
        self.register_buffer("rates", rates, persistent=False)
        self.time_mlp = nn.Sequential(nn.Linear(waves, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """[batch] to [batch, width]."""
        angles = t[:, None] * self.rates
        return self.time_mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class InputEmbedding(nn.Module):
    """Spectrograms and speaker to one vector a frame, which then learns its place from the frames before it."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, width)
        self.conv_pos_embed = nn.Module()
        # Its frames of silence are not in a convolution of our own: ModelOpt quantizes `torch.nn.Conv1d` as it is, and
        # no other forward.
        self.conv_pos_embed.conv1 = nn.Sequential(nn.Conv1d(width, width, 31, groups=16), nn.Mish())
        self.conv_pos_embed.conv2 = nn.Sequential(nn.Conv1d(width, width, 31, groups=16), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, inputs] to [batch, frames, width]."""
        x = self.proj(x)
        place = self.conv_pos_embed.conv1(F.pad(x.transpose(1, 2), (30, 0)))
        place = self.conv_pos_embed.conv2(F.pad(place, (30, 0)))
        return place.transpose(1, 2) + x


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021), the angle of neighbours 2i and 2i + 1 by the i-th frequency."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, head_width, 2).float() / head_width))

    def forward(self, frames: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [frames, head_width]."""
        angles = (torch.arange(frames)[:, None] * self.inv_freq).repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[batch, frames, width], the first head turned. The network was trained so: the others do not know their place."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    across = torch.stack([-odd, even], dim=-1).flatten(-2)
    return torch.cat([turned * cos + across * sin, rest], dim=-1)


class ModulatedNorm(nn.Module):
    """A norm whose shift and scale come from the time (adaLN), and further shifts, scales and gates for the block."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[batch, frames, width] normed, and the parts after the first two, each [batch, 1, width].

        A block's parts are shift, scale, gate, shift, scale, gate; the last norm's are scale and shift.
        """
        parts = self.linear(F.silu(time)).unsqueeze(1).chunk(self.parts, dim=-1)
        scale, shift = (parts[0], parts[1]) if self.parts == 2 else (parts[1], parts[0])
        return modulated(x, shift, scale), list(parts[2:])


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The norm of `x` scaled and shifted."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Attention and a tanh-GELU MLP, each modulated and gated by the time."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attn_norm = ModulatedNorm(width, 6)
        self.attn = Attention(width, heads)
        self.ff = nn.Module()
        rise = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"))
        self.ff.ff = nn.Sequential(rise, nn.Identity(), nn.Linear(mlp_ratio * width, width))

    def forward(self, x: Tensor, time: Tensor, speech: Tensor, bias: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, frames, width]; `speech` is [batch, frames, 1]."""
        normed, (gate, shift, scale, mlp_gate) = self.attn_norm(x, time)
        x = x + gate * self.attn(normed, bias, cos, sin) * speech
        return x + mlp_gate * self.ff.ff(modulated(x, shift, scale))


class Attention(nn.Module):
    """Every frame looks at every frame that `bias` lets it see."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, bias: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, frames, width]."""
        turned = rotated(self.to_q(x), cos, sin), rotated(self.to_k(x), cos, sin), self.to_v(x)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in turned)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
        return self.to_out[0]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
