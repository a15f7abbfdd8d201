"""A weight as a checkpoint quantized it: W = code * scale, where a tensor, a row, or a block shares a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trtbuild.core.errors import ModelError
from trtbuild.core.formats import GREATEST, Granularity, NumberType

TILE = 128
"""Outputs and inputs of a tile that shares a scale."""


@dataclass(frozen=True)
class QuantizedWeight:
    """The codes and scales of one weight [out, in], symmetric."""

    kind: NumberType
    codes: torch.Tensor
    """[out, in]: int8 for integers of both sizes, float8_e4m3fn."""
    scale: torch.Tensor
    """float32: [] for the tensor, [out] for channels, [out, blocks] for blocks and tiles of neighbouring inputs."""
    granularity: Granularity
    input_scale: float | None = None
    """What one code of the layer's input is worth, where the checkpoint has a static one for the tensor."""
    pre_quant_scale: torch.Tensor | None = None
    """[in] float32: what the layer's input is multiplied by before the product (SmoothQuant, AWQ)."""

    @property
    def block_size(self) -> int:
        """Neighbouring inputs that share a scale; 0 where there are no blocks."""
        if self.granularity == "tile":
            return TILE
        return self.codes.shape[1] // self.scale.shape[1] if self.scale.ndim == 2 else 0

    @property
    def amax(self) -> torch.Tensor:
        """The scale as the greatest magnitude that the type says, float32."""
        return self.scale * GREATEST[self.kind]

    @property
    def said(self) -> str:
        """What it is, in words."""
        shared = {
            "tensor": "one scale a tensor",
            "channel": "one scale an output channel",
            "block": f"scales for blocks of {self.block_size} inputs",
            "tile": f"scales for tiles of {self.block_size} x {self.block_size}",
        }
        return f"{self.kind} with {shared[self.granularity]}"

    def floats(self) -> torch.Tensor:
        """W [out, in] float32, for an input that no pre-quant scale has touched."""
        scale = self.scale
        if scale.ndim == 2:
            scale = scale.repeat_interleave(self.block_size, 1)[:, : self.codes.shape[1]]
        elif scale.ndim == 1:
            scale = scale[:, None]
        weight = self.codes.float() * scale
        return weight if self.pre_quant_scale is None else weight * self.pre_quant_scale


@dataclass(frozen=True)
class FloatsOnly:
    """A quantized weight whose codes no symmetric Q/DQ can say; what it is worth is known all the same."""

    weight: torch.Tensor
    """W [out, in] float32."""
    reason: str

    def floats(self) -> torch.Tensor:
        """W [out, in] float32."""
        return self.weight


def in_blocks(
    name: str, kind: NumberType, codes: torch.Tensor, zeros: torch.Tensor | int, scale: torch.Tensor, middle: int
) -> QuantizedWeight | FloatsOnly:
    """(codes - zeros) * scale, for unsigned codes [out, in], zeros and scale [out, blocks] or one zero for all.

    Symmetric where every zero is the `middle` code; else what symmetric codes would cost is said. Raises ModelError
    where the shapes do not fit each other, or a scale is not finite.
    """
    outputs, inputs = codes.shape
    if scale.ndim != 2 or scale.shape[0] != outputs or not scale.shape[1] or inputs % scale.shape[1]:
        raise ModelError(
            f"{name} is [{outputs}, {inputs}] and its scales {list(scale.shape)}: they do not fit", hint=COPY
        )
    scale = checked_scale(name, scale)
    if isinstance(zeros, int) or bool((zeros == middle).all()):
        zero = zeros if isinstance(zeros, int) else middle
        symmetric = (codes.short() - zero).to(torch.int8)
        if scale.shape[1] == 1:
            return QuantizedWeight(kind, symmetric, scale[:, 0], "channel")
        return QuantizedWeight(kind, symmetric, scale, "block")
    if zeros.shape != scale.shape:
        raise ModelError(f"{name} has zero points {list(zeros.shape)} and scales {list(scale.shape)}", hint=COPY)
    size = inputs // scale.shape[1]
    weight = (codes.float() - zeros.float().repeat_interleave(size, 1)) * scale.repeat_interleave(size, 1)
    least, greatest = int(zeros.min()), int(zeros.max())
    reason = (
        f"its zero points go from {least} to {greatest} and Q/DQ for TensorRT are symmetric ({middle} alone); "
        f"rounding it anew costs {100 * _cost(weight, size, kind):.1f} % of its norm"
    )
    return FloatsOnly(weight, reason)


def _cost(weight: torch.Tensor, size: int, kind: NumberType) -> float:
    """|W - rounded W| / |W|, for symmetric codes with the same blocks."""
    blocks = weight.reshape(len(weight), -1, size)
    scale = (blocks.abs().amax(2, keepdim=True) / GREATEST[kind]).clamp(min=2.0**-100)
    return float(((blocks / scale).round() * scale - blocks).norm() / blocks.norm().clamp(min=2.0**-100))


def checked_scale(name: str, scale: torch.Tensor) -> torch.Tensor:
    """The scale in float32. Raises ModelError where it is not finite or not above zero."""
    found = scale.float()
    if not bool((torch.isfinite(found) & (found >= 0)).all()):
        raise ModelError(f"the scales of {name} are not all finite numbers from 0 on", hint=COPY)
    return found


COPY = "copy the checkpoint again, or quantize it again"
"""What helps where a file contradicts itself."""
