"""Quantized numbers as floats, in torch: what the Q/DQ nodes that insertion writes compute.

Weights and the inputs of one module; symmetric, scale = amax / the type's greatest number, rounding half to even. The
scales of NVFP4 and MXFP8 are those of `trtbuild.graph.block_scales`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from trtbuild.backends.modelopt.layers import CONVOLUTIONS, TRANSPOSED, is_conv1d_of_transformers, is_linear
from trtbuild.backends.modelopt.scales import LEAST_SCALE, weight_scale
from trtbuild.core.formats import FORMATS, GREATEST, NumberType
from trtbuild.core.quantization import ModuleQuantization, values_of
from trtbuild.core.tensor_file import Array

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
    if FORMATS[numbers.format].dynamic:
        return _in_blocks(divided, kind, _tensor(numbers.weight_amax).max())
    scale = weight_scale(matrix, numbers)
    if numbers.weight_codes is not None:
        return torch.from_numpy(values_of(numbers.weight_codes, kind)).reshape(matrix.shape) * scale
    return _rounded(divided / scale, kind, lowest=-GREATEST[kind]).mul_(scale)


def activation(x: torch.Tensor, numbers: ModuleQuantization) -> torch.Tensor:
    """The module's input as its product reads it: smoothed along its last axis, then through the activation's type."""
    if numbers.pre_quant_scale is not None:
        x = x * _tensor(numbers.pre_quant_scale)
    kind = FORMATS[numbers.format].activation
    if kind is not None and FORMATS[numbers.format].dynamic:
        return _in_blocks(x, kind, None if numbers.input_amax is None else _tensor(numbers.input_amax).max())
    if kind is None or numbers.input_amax is None:
        return x
    scale = (_tensor(numbers.input_amax).max() / GREATEST[kind]).clamp(min=LEAST_SCALE)
    # QuantizeLinear saturates at the type's own end: an input beyond its calibrated range may become -128.
    return _rounded(x / scale, kind, lowest=-128.0 if kind == "int8" else -GREATEST[kind]).mul_(scale)


def _in_blocks(values: torch.Tensor, kind: NumberType, amax: torch.Tensor | None) -> torch.Tensor:
    """NVFP4 (blocks of 16 along the last axis, `amax` [] the tensor's) or MXFP8 (blocks of 32), as floats."""
    blocks = values.unflatten(-1, (-1, 16 if kind == "fp4" else 32))
    greatest = blocks.abs().amax(-1, keepdim=True)
    if kind == "fp4":
        tensor_scale = torch.ones(()) if amax is None or amax == 0 else amax / (GREATEST["fp4"] * GREATEST["fp8"])
        scale = (greatest / (GREATEST["fp4"] * tensor_scale)).clamp(2.0**-9, GREATEST["fp8"])
        scale = scale.to(torch.float8_e4m3fn).float() * tensor_scale
    else:
        fraction, exponent = torch.frexp(greatest / GREATEST["fp8"])
        scale = torch.exp2((exponent - (fraction == 0.5).int()).clamp(-126, 127).float())
    return _rounded(blocks / scale, kind, lowest=-GREATEST[kind]).mul_(scale).flatten(-2)


def _rounded(values: torch.Tensor, kind: NumberType, lowest: float) -> torch.Tensor:
    """Codes as floats; `values` is written over."""
    if kind == "fp8":
        # torch's cast gives NaN beyond the greatest number; ONNX saturates.
        return values.clamp_(lowest, GREATEST[kind]).to(torch.float8_e4m3fn).float()
    if kind == "fp4":
        # Steps of 0.5 up to 2, of 1 up to 4, then of 2.
        magnitude = values.abs()
        step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
        return (values / step).round_().mul_(step).clamp_(lowest, GREATEST[kind])
    return values.round_().clamp_(lowest, GREATEST[kind])


def _tensor(array: Array | Any) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)
