"""CosyVoice2's flow-matching estimator: the network that a sentence runs through twenty times.

Du et al. 2024, "CosyVoice 2: Scalable Streaming Speech Synthesis with Large Language Models", section 2.3; a causal
form of Matcha-TTS's decoder (Mehta et al. 2023). Names are those of the checkpoint's `decoder.estimator`.
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
"""Where the estimator's tensors are in flow.pt; the rest of the file is the token encoder, which stays in PyTorch."""
MASKED = -1e4
"""Added to a score that must not count. Its exponential is 0 in every float type, and it fits into FP16, which -1e10
does not: there it is -infinity, and a row of nothing else gives NaN."""


def estimator(
    files: Sequence[Path] = (),
    *,
    mels: int = 80,
    width: int = 256,
    heads: int = 8,
    head_width: int = 64,
    blocks: int = 4,
    middle: int = 12,
    chunk: int = 0,
) -> nn.Module:
    """The estimator with the weights of flow.pt, which the recipe lists under `model.factory.files`.

    The sizes are those of CosyVoice2-0.5B's YAML. `chunk` is for streaming: frames see no further than the end of their
    own chunk of that many frames (50 in the original); 0 lets each see all. Raises ModelError with the first ten
    differences where the file does not fit.
    """
    model = Estimator(mels, width, heads, head_width, blocks, middle, chunk)
    return load_checkpoint(model, *files, rename=_own)


def _own(name: str) -> str | None:
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else None


class Estimator(nn.Module):
    """The velocity [batch, mels, frames] that carries noise to speech, at a time between 0 and 1."""

    output_names = ("estimator_out",)

    def __init__(
        self, mels: int, width: int, heads: int, head_width: int, blocks: int, middle: int, chunk: int
    ) -> None:
        super().__init__()
        time_width = 4 * width
        self.chunk = chunk
        self.time_embeddings = TimeWaves(4 * mels)
        self.time_mlp = TimeMlp(4 * mels, time_width)

        def stack(inputs: int) -> list[nn.Module]:
            transformers = (TransformerBlock(width, heads, head_width) for _ in range(blocks))
            return [ResnetBlock(inputs, width, time_width), nn.ModuleList(transformers)]

        self.down_blocks = nn.ModuleList([nn.ModuleList([*stack(4 * mels), nn.Conv1d(width, width, 3)])])
        self.mid_blocks = nn.ModuleList([nn.ModuleList(stack(width)) for _ in range(middle)])
        self.up_blocks = nn.ModuleList([nn.ModuleList([*stack(2 * width), nn.Conv1d(width, width, 3)])])
        self.final_block = CausalBlock(width, width)
        self.final_proj = nn.Conv1d(width, mels, 1)

    def forward(self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor) -> Tensor:
        """`x` the noisy spectrogram, `mu` the tokens' and `cond` the prompt's, [batch, mels, frames]; `mask` [batch, 1,
        frames] is 1 where there is speech; `t` [batch]; `spks` [batch, mels] the speaker."""
        time = self.time_mlp(self.time_embeddings(t))
        hidden = torch.cat([x, mu, spks.unsqueeze(-1).expand_as(x), cond], dim=1)
        bias = self.bias(mask)

        def through(resnet: nn.Module, transformers: nn.Module, hidden: Tensor) -> Tensor:
            hidden = resnet(hidden, mask, time).transpose(1, 2)
            for block in transformers:  # type: ignore[attr-defined]  # a ModuleList
                hidden = block(hidden, bias)
            return hidden.transpose(1, 2)

        resnet, transformers, down = self.down_blocks[0]
        skip = through(resnet, transformers, hidden)
        hidden = down(causal(skip * mask))
        for resnet, transformers in self.mid_blocks:
            hidden = through(resnet, transformers, hidden)
        resnet, transformers, up = self.up_blocks[0]
        hidden = through(resnet, transformers, torch.cat([hidden, skip], dim=1))
        hidden = self.final_block(up(causal(hidden * mask)), mask)
        return self.final_proj(hidden * mask) * mask

    def bias(self, mask: Tensor) -> Tensor:
        """What is added to the scores: [batch, 1, 1, frames], or one row for each frame where there are chunks."""
        seen = mask.unsqueeze(1)
        if self.chunk:
            frame = torch.arange(mask.shape[-1])
            end = (frame // self.chunk + 1) * self.chunk
            seen = seen * (frame[None, :] < end[:, None]).to(mask.dtype)
        return (1 - seen) * MASKED


class TimeWaves(nn.Module):
    """A time as sines and cosines of falling frequency (Ho et al. 2020), [batch] to [batch, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        rates = 1000 * torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """[batch] to [batch, width]."""
        angles = t[:, None] * self.rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimeMlp(nn.Module):
    """Two linears with a SiLU between them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, waves: Tensor) -> Tensor:
        """[batch, inputs] to [batch, width]."""
        return self.linear_2(F.silu(self.linear_1(waves)))


def causal(x: Tensor) -> Tensor:
    """Two frames of silence in front, so that a convolution over three sees none that comes later.

    Here and not in a convolution of our own: ModelOpt quantizes `torch.nn.Conv1d` as it is, and no other forward.
    """
    return F.pad(x, (2, 0))


class CausalBlock(nn.Module):
    """Convolution, norm over the channels, Mish; silence stays zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.ModuleList([nn.Conv1d(inputs, outputs, 3), nn.Identity(), nn.LayerNorm(outputs)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[batch, inputs, frames] to [batch, outputs, frames]."""
        convolution, _, norm = self.block
        hidden = convolution(causal(x * mask))
        return F.mish(norm(hidden.transpose(1, 2)).transpose(1, 2)) * mask


class ResnetBlock(nn.Module):
    """Two blocks with the time between them, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, time_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, outputs))
        self.block1, self.block2 = CausalBlock(inputs, outputs), CausalBlock(outputs, outputs)
        self.res_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        """[batch, inputs, frames] to [batch, outputs, frames]."""
        hidden = self.block1(x, mask) + self.mlp(time).unsqueeze(-1)
        return self.block2(hidden, mask) + self.res_conv(x * mask)


class TransformerBlock(nn.Module):
    """Attention and a GELU MLP, each behind a norm; names as in diffusers' BasicTransformerBlock."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, head_width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[batch, frames, width]."""
        x = x + self.attn1(self.norm1(x), bias)
        return x + self.ff(self.norm3(x))


class Attention(nn.Module):
    """Every frame looks at every frame that `bias` lets it see."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, heads * head_width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(heads * head_width, width)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[batch, frames, width]."""
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
        return self.to_out[0]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Out to four times the width and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        up = nn.Module()
        up.proj = nn.Linear(width, 4 * width)
        self.net = nn.ModuleList([up, nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, width]."""
        return self.net[2](F.gelu(self.net[0].proj(x)))
