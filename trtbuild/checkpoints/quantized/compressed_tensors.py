"""`pack-quantized` of compressed-tensors [vllm-project/compressed-tensors, compressors/pack_quantized].

weight_packed      int32 [out, in * bits / 32]   neighbouring inputs in a word, each code plus 2^(bits - 1)
weight_shape       int64 [2]                     out, in
weight_scale       [out, groups]                 W = (q - zero) * scale
weight_zero_point  int32 [out * bits / 32, groups], where it is asymmetric, packed along the outputs
weight_g_idx       int [in], where groups are in activation order
"""

from __future__ import annotations

import torch

from trtbuild.checkpoints.quantized.weight import COPY, FloatsOnly, QuantizedWeight, checked_scale, in_blocks
from trtbuild.checkpoints.quantized.words import unpacked
from trtbuild.core.errors import ModelError


def read(
    name: str,
    packed: torch.Tensor,
    shape: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    g_idx: torch.Tensor | None,
) -> QuantizedWeight | FloatsOnly:
    """One weight, of 4 or 8 bits: how many, its shape tells. Raises ModelError where the shapes do not fit."""
    outputs, inputs = (int(length) for length in shape.flatten().tolist()) if shape.numel() == 2 else (0, 0)
    bits = next((bits for bits in (4, 8) if packed.shape[-1] == -(-inputs * bits // 32)), 0)
    if not bits or len(packed) != outputs:
        raise ModelError(
            f"{name}.weight_packed is {list(packed.shape)}, and its weight {[outputs, inputs]}: not 4 or 8 bits",
            hint=COPY,
        )
    middle = 2 ** (bits - 1)
    codes = unpacked(f"{name}.weight_packed", packed, bits, 1)[:, :inputs]
    scale = scale.reshape(1, 1).expand(outputs, 1) if scale.numel() == 1 else scale
    zeros: torch.Tensor | int = middle
    if zero_point is not None:
        zeros = unpacked(f"{name}.weight_zero_point", zero_point, bits, 0)[:outputs]
    if g_idx is not None and bool((g_idx >= 0).all()):
        place = g_idx.long()
        if place.shape != (inputs,) or int(place.max()) >= scale.shape[1]:
            raise ModelError(f"{name}.weight_g_idx does not fit {inputs} inputs in {scale.shape[1]} groups", hint=COPY)
        if not torch.equal(place, torch.arange(inputs) // (inputs // scale.shape[1])):
            less = zeros if isinstance(zeros, int) else zeros.float()[:, place]
            weight = (codes.float() - less) * checked_scale(name, scale)[:, place]
            return FloatsOnly(
                weight, "its groups are in activation order, and Q/DQ scale blocks of neighbouring inputs"
            )
    return in_blocks(name, "int4" if bits == 4 else "int8", codes, zeros, scale, middle)
