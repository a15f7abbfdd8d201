"""Quantized numbers as floats, in torch: what the Q/DQ nodes that insertion writes compute.

Weights and the inputs of one module; symmetric, scale = amax / the type's greatest number, rounding half to even.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from trtbuild.backends.modelopt.layers import CONVOLUTIONS, TRANSPOSED, is_conv1d_of_transformers, is_linear
from trtbuild.core.errors import ModelError
from trtbuild.core.formats import FORMATS, GREATEST, NumberType
from trtbuild.core.quantization import ModuleQuantization, values_of
from trtbuild.core.tensor_file import Array

_LEAST_SCALE = 2.0**-100
"""A channel of zeros gets this scale: never zero, codes of zero."""


def check(numbers: ModuleQuantization) -> None:
    """Raises ModelError for a format whose scales are made while the model runs: nothing here speaks it."""
    traits = FORMATS[numbers.format]
    if "fp4" in (traits.weight, traits.activation) or numbers.format == "mxfp8":
        raise ModelError(
            f"{numbers.format} cannot be scored: its block scales are computed while the model runs, on Blackwell only",
            hint="leave it out of the candidates",
        )


_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
"""By the number of axes that the kernel moves along."""


def is_known(layer: Any) -> bool:
    """Whether `output` runs this layer: a linear or a convolution, but no transposed convolution in groups, whose
    weight has no axis of output channels."""
    if isinstance(layer, TRANSPOSED):
        return bool(layer.groups == 1)
    return is_linear(layer) or isinstance(layer, CONVOLUTIONS)


def output(layer: Any, x: torch.Tensor, numbers: ModuleQuantization | None = None) -> torch.Tensor:
    """What a layer answers in float32, quantized where `numbers` say how."""
    swapped = is_conv1d_of_transformers(layer) or isinstance(layer, TRANSPOSED)  # W is [in, out, ...]
    matrix = layer.weight.float().transpose(0, 1) if swapped else layer.weight.float()
    x, spatial = x.float(), matrix.ndim - 2
    if numbers is not None:
        x = activation(x, numbers)
        matrix = weight(matrix, numbers)
    bias = None if layer.bias is None else layer.bias.float()
    if is_linear(layer):
        return functional.linear(x, matrix, bias)
    found: torch.Tensor
    if isinstance(layer, TRANSPOSED):
        shape = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        found = _TRANSPOSED[spatial](x, matrix.transpose(0, 1), bias, *shape)
    else:
        found = layer._conv_forward(x, matrix, bias)  # knows stride, groups and padding mode
    return found


def weight(matrix: torch.Tensor, numbers: ModuleQuantization) -> torch.Tensor:
    """The weight [out, in / groups, *kernel] that the quantized module multiplies with, for smoothed inputs."""
    # Linears alone are smoothed.
    divided = matrix if numbers.pre_quant_scale is None else matrix / _tensor(numbers.pre_quant_scale)
    kind = FORMATS[numbers.format].weight
    scale = _weight_scale(matrix, numbers, kind)
    if numbers.weight_codes is not None:
        return torch.from_numpy(values_of(numbers.weight_codes, kind)).reshape(matrix.shape) * scale
    return _rounded(divided / scale, kind, lowest=-GREATEST[kind]).mul_(scale)


def activation(x: torch.Tensor, numbers: ModuleQuantization) -> torch.Tensor:
    """The module's input as its product reads it: smoothed along its last axis, then through the activation's type."""
    if numbers.pre_quant_scale is not None:
        x = x * _tensor(numbers.pre_quant_scale)
    kind = FORMATS[numbers.format].activation
    if kind is None or numbers.input_amax is None:
        return x
    scale = (_tensor(numbers.input_amax).max() / GREATEST[kind]).clamp(min=_LEAST_SCALE)
    # QuantizeLinear saturates at the type's own end: an input beyond its calibrated range may become -128.
    return _rounded(x / scale, kind, lowest=-128.0 if kind == "int8" else -GREATEST[kind]).mul_(scale)


def _weight_scale(matrix: torch.Tensor, numbers: ModuleQuantization, kind: NumberType) -> torch.Tensor:
    """Broadcasts against `matrix`."""
    scale = (_tensor(numbers.weight_amax) / GREATEST[kind]).clamp(min=_LEAST_SCALE)
    if scale.ndim == 2:
        block = min(numbers.block_size or FORMATS[numbers.format].block, matrix.shape[1])
        return scale.repeat_interleave(block, dim=1)[:, : matrix.shape[1]]
    return scale.reshape(-1, *[1] * (matrix.ndim - 1)) if scale.numel() > 1 else scale.reshape(())


def _rounded(values: torch.Tensor, kind: NumberType, lowest: float) -> torch.Tensor:
    """Codes as floats; `values` is written over."""
    if kind == "fp8":
        # torch's cast gives NaN beyond the greatest number; ONNX saturates.
        return values.clamp_(lowest, GREATEST[kind]).to(torch.float8_e4m3fn).float()
    return values.round_().clamp_(lowest, GREATEST[kind])


def _tensor(array: Array | Any) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)
