"""INT8 and FP8 weights in their own types, with scales beside them: W = weight * scale.

    weight        int8 or float8_e4m3fn [out, in]
    weight_scale  [] or [1], [out] or [out, 1], or [out / 128, in / 128] for FP8
    input_scale   [] or [1], where activations have a static scale

So write compressed-tensors (`int-quantized`, `float-quantized`), ModelOpt (FP8, INT8 SmoothQuant), LightX2V's converter
[ModelTC/LightX2V, tools/convert/converter.py] (ComfyUI's spelling: `scale_weight`, `scale_input`), and DeepSeek and
transformers' own FP8 (`weight_scale_inv`, which is no inverse).
"""

from __future__ import annotations

import torch

from trtbuild.checkpoints.quantized.weight import COPY, TILE, FloatsOnly, QuantizedWeight, checked_scale
from trtbuild.core.errors import ModelError
from trtbuild.core.formats import Granularity, NumberType

TYPES: dict[torch.dtype, NumberType] = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}


def read(
    name: str,
    weight: torch.Tensor,
    scale: torch.Tensor,
    input_scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    pre_quant_scale: torch.Tensor | None,
) -> QuantizedWeight | FloatsOnly:
    """One weight. Raises ModelError where it is of another type, holds NaN, or the shapes do not fit each other."""
    if weight.dtype not in TYPES or weight.ndim != 2:
        raise ModelError(
            f"{name}.weight is {weight.dtype} {list(weight.shape)} beside a scale; INT8 and E4M3 matrices are read",
            hint="take the model in 16 bits and quantize it here",
        )
    kind = TYPES[weight.dtype]
    if kind == "fp8" and bool(torch.isnan(weight.float()).any()):
        raise ModelError(f"{name}.weight holds NaN", hint=COPY)
    shaped, granularity = _shaped(name, weight, checked_scale(name, scale))
    if zero_point is not None and bool((zero_point != 0).any()):
        zero = zero_point.float().reshape(-1, 1) if zero_point.numel() > 1 else zero_point.float().reshape(())
        factor = shaped[:, None] if shaped.ndim == 1 else shaped
        return FloatsOnly((weight.float() - zero) * factor, "its zero points are not zero, and Q/DQ here are symmetric")
    before = None
    if pre_quant_scale is not None:
        before = checked_scale(f"{name} before it", pre_quant_scale.reshape(-1))
        if len(before) != weight.shape[1]:
            raise ModelError(
                f"{name}.pre_quant_scale has {len(before)} numbers for {weight.shape[1]} inputs", hint=COPY
            )
    static = float(input_scale) if input_scale is not None and input_scale.numel() == 1 else None
    return QuantizedWeight(kind, weight, shaped, granularity, static, before)


def _shaped(name: str, weight: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, Granularity]:
    outputs, inputs = weight.shape
    if scale.numel() == 1:
        return scale.reshape(()), "tensor"
    if scale.shape in ((outputs,), (outputs, 1)):
        return scale.reshape(-1), "channel"
    if weight.dtype == torch.float8_e4m3fn and scale.shape == (-(-outputs // TILE), -(-inputs // TILE)):
        return scale.repeat_interleave(TILE, 0)[:outputs], "tile"
    raise ModelError(
        f"{name}.weight is {list(weight.shape)} and its scales {list(scale.shape)}: they do not fit", hint=COPY
    )
