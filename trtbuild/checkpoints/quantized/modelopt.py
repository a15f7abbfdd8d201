"""INT4 of ModelOpt's Hugging Face export [nvidia-modelopt 0.47, modelopt/torch/export/quant_utils.py].

weight           uint8 [out / 2, in]   output 2r in the low four bits of row r, 2r + 1 in the high ones, signed
weight_scale     [out, blocks]         W = q * scale
pre_quant_scale  [in], where AWQ's scale did not go into the layer before
"""

from __future__ import annotations

import torch

from trtbuild.checkpoints.quantized.weight import COPY, QuantizedWeight, checked_scale
from trtbuild.core.errors import ModelError


def read(name: str, weight: torch.Tensor, scale: torch.Tensor, pre_quant_scale: torch.Tensor | None) -> QuantizedWeight:
    """One weight. Raises ModelError where the shapes do not fit each other."""
    rows, inputs = weight.shape if weight.ndim == 2 else (0, 0)
    blocks = scale.shape[1] if scale.ndim == 2 and len(scale) == 2 * rows and scale.dtype.itemsize > 1 else 0
    if not blocks or inputs % blocks:
        raise ModelError(
            f"{name}.weight is {weight.dtype} {list(weight.shape)} and its scales {scale.dtype} {list(scale.shape)}, "
            "not ModelOpt's INT4",
            hint="FP4 is not imported: take the model in 16 bits and quantize it here, format nvfp4",
        )
    nibbles = torch.stack([weight & 15, weight >> 4], 1).flatten(0, 1).to(torch.int8)
    codes = torch.where(nibbles > 7, nibbles - 16, nibbles)
    if pre_quant_scale is not None and pre_quant_scale.numel() != inputs:
        raise ModelError(f"{name}.pre_quant_scale is {list(pre_quant_scale.shape)} for {inputs} inputs", hint=COPY)
    before = None if pre_quant_scale is None else checked_scale(f"{name} before it", pre_quant_scale.reshape(-1))
    return QuantizedWeight("int4", codes, checked_scale(name, scale), "block", pre_quant_scale=before)
