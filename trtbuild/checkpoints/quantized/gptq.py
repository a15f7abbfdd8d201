"""AutoGPTQ's and GPTQModel's layout [AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py].

qweight  int32 [in * bits / 32, out]       neighbouring inputs in a word
qzeros   int32 [groups, out * bits / 32]   neighbouring outputs in a word; one less than the zero point, except in
                                           `checkpoint_format: gptq_v2`
scales   float16 [groups, out]             W = (q - zero) * scale
g_idx    int32 [in]                        the group of each input
"""

from __future__ import annotations

import torch

from trtbuild.checkpoints.quantized.weight import COPY, FloatsOnly, QuantizedWeight, checked_scale, in_blocks
from trtbuild.checkpoints.quantized.words import unpacked
from trtbuild.core.errors import ModelError


def read(
    name: str,
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    g_idx: torch.Tensor | None,
    *,
    bits: int,
    plain_zeros: bool,
) -> QuantizedWeight | FloatsOnly:
    """One weight, of 4 or 8 bits. Raises ModelError where the shapes do not fit each other.

    Groups in "activation order" (`desc_act`) are of inputs far apart, and DequantizeLinear scales neighbours: such a
    weight has floats only, unless its order is that of the inputs.
    """
    codes = unpacked(f"{name}.qweight", qweight, bits, 0).T.contiguous()
    zeros = unpacked(f"{name}.qzeros", qzeros, bits, 1).T
    zeros = zeros if plain_zeros else (zeros + 1) & (2**bits - 1)
    outputs, inputs = codes.shape
    if scales.ndim != 2 or scales.shape[1] != outputs or zeros.shape != scales.T.shape:
        raise ModelError(
            f"{name}.qweight is {list(qweight.shape)} and its scales {list(scales.shape)}, not GPTQ's of {bits} bits",
            hint=COPY,
        )
    groups = len(scales)
    size = -(-inputs // groups)
    if g_idx is not None and not torch.equal(g_idx.long(), torch.arange(inputs) // size):
        if g_idx.shape != (inputs,) or int(g_idx.min()) < 0 or int(g_idx.max()) >= groups:
            raise ModelError(f"{name}.g_idx does not give each of {inputs} inputs one of {groups} groups", hint=COPY)
        place = g_idx.long()
        weight = (codes.float() - zeros.float()[:, place]) * checked_scale(name, scales.T)[:, place]
        reason = "its groups are in activation order (desc_act), and Q/DQ scale blocks of neighbouring inputs"
        return FloatsOnly(weight, reason)
    return in_blocks(name, "int4" if bits == 4 else "int8", codes, zeros, scales.T, 2 ** (bits - 1))
