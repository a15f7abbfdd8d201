"""Which layers of a module can be quantized, and why the others cannot."""

from __future__ import annotations

from typing import Any

import torch

from trtbuild.core.errors import DataError
from trtbuild.core.formats import FORMATS, Format, Traits

CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
BLOCK_SIZES = (256, 128, 64, 32, 16)
"""What a recipe can say, the greatest first."""


def is_linear(layer: Any) -> bool:
    """Whether a layer multiplies by a matrix: `torch.nn.Linear` or transformers' Conv1D (GPT-2), whose W is [in, out].

    The latter is told by name, so that transformers stays optional.
    """
    return isinstance(layer, torch.nn.Linear) or is_conv1d_of_transformers(layer)


def is_conv1d_of_transformers(layer: Any) -> bool:
    """Whether a layer is transformers' Conv1D, a linear layer whose weight is stored transposed."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"


def matrix(layer: Any) -> torch.Tensor:
    """A linear's weight as [out, in], sharing memory with it."""
    weight: torch.Tensor = layer.weight.detach()
    return weight.T if is_conv1d_of_transformers(layer) else weight


def find(module: Any) -> dict[str, Any]:
    """Every linear and convolution by module path, in the order of registration; a layer in two places counts once."""
    kinds = (*CONVOLUTIONS, *TRANSPOSED)
    return {path: layer for path, layer in module.named_modules() if is_linear(layer) or isinstance(layer, kinds)}


def classes(layers: dict[str, Any]) -> dict[str, str]:
    """The class name of each layer; ask before ModelOpt converts them."""
    return {path: type(layer).__name__ for path, layer in layers.items()}


def format_of(layer: Any, form: Format) -> Format:
    """The format that a layer gets: SmoothQuant is for linears, and a convolution beside them is plain INT8."""
    return "int8" if FORMATS[form].algorithm == "smoothquant" and not is_linear(layer) else form


def block_size_of(traits: Traits, block_size: int) -> int:
    """Inputs that share a weight scale: what the format fixes, else what the recipe says; 0 without blocks."""
    return (traits.block or block_size) if traits.granularity in ("block", "tile") else 0


def left_alone(layers: dict[str, Any], form: Format, block_size: int) -> dict[str, str]:
    """Layers that the format cannot hold, with the reason. Raises DataError where a weight is not finite."""
    traits = FORMATS[form]
    kept: dict[str, str] = {}
    owners: dict[int, str] = {}
    for path, layer in layers.items():
        if not torch.isfinite(layer.weight).all():
            raise DataError(f"the weight of {path} holds NaN or infinity", hint="check the checkpoint")
        owner = owners.setdefault(id(layer.weight), path)
        if not is_linear(layer):
            if traits.granularity in ("block", "tile"):
                kept[path] = f"{form} lays its scales in blocks of a matrix, and a convolution's weight is none"
            elif traits.granularity == "channel" and isinstance(layer, TRANSPOSED) and layer.groups > 1:
                kept[path] = "a transposed convolution in groups has no axis of output channels to scale"
        elif reason := _unfit(layer, traits, block_size):
            kept[path] = reason
        elif traits.algorithm in _SCALED and owner != path:
            kept[path] = f"it shares its weight with {owner}, and a weight can be {_SCALED[traits.algorithm]} once only"
    return kept


_SCALED = {"smoothquant": "smoothed", "awq": "scaled"}
"""Algorithms that divide a weight's columns by numbers of one layer's input, in the word for people."""


def _unfit(layer: Any, traits: Traits, block_size: int) -> str:
    """Why a linear's shape does not suit the format; empty where it does."""
    inputs = layer.weight.shape[0 if is_conv1d_of_transformers(layer) else 1]
    if traits.algorithm == "smoothquant" and inputs == 1:
        return f"SmoothQuant needs more than one channel, the weight is {list(layer.weight.shape)}"
    size = block_size_of(traits, block_size)
    if traits.granularity == "block" and inputs % size:
        if traits.block:
            return f"its {inputs} inputs are not a multiple of {size}, the size of the format's blocks"
        fits = next((size for size in BLOCK_SIZES if inputs % size == 0), None)
        advice = f"block_size {fits} divides them" if fits else "no block_size from 16 to 256 divides them"
        return f"its {inputs} inputs are not a multiple of block_size {size}; {advice}"
    return ""
