"""Layers that read one tensor get one pre-quant scale, so that it can be folded into what computes the tensor.

Insertion shares scales too, where a plan comes without. Here it must happen before GPTQ: codes fit one scale only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trtbuild.backends.modelopt.layers import matrix
from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import ModuleQuantization, shared_scale


def share(
    found: Mapping[str, Any], numbers: dict[str, ModuleQuantization], groups: list[list[str]]
) -> dict[str, ModuleQuantization]:
    """The numbers with one scale for each group of layers; their weights are divided by it, in place."""
    shared = dict(numbers)
    for group in groups:
        scaled = [path for path in group if path in numbers and numbers[path].pre_quant_scale is not None]
        if len(scaled) < 2:
            continue
        scales = np.stack([scale for path in scaled if (scale := numbers[path].pre_quant_scale) is not None])
        scale = shared_scale(scales, FORMATS[numbers[scaled[0]].format].algorithm)
        for path in scaled:
            shared[path] = _rescaled(found[path], numbers[path], scale)
    return shared


def _rescaled(layer: Any, numbers: ModuleQuantization, scale: Any) -> ModuleQuantization:
    assert numbers.pre_quant_scale is not None
    assert numbers.input_channel_amax is not None
    factor = torch.from_numpy(numbers.pre_quant_scale / scale)
    matrix(layer).mul_(factor[None, :])
    layer.input_quantizer.pre_quant_scale = torch.from_numpy(scale)
    greatest = matrix(layer).float().abs()
    size = numbers.block_size
    amax = greatest.reshape(len(greatest), -1, size).amax(2) if size else greatest.amax(1)
    quantizes_input = numbers.input_amax is not None
    return replace(
        numbers,
        weight_amax=amax.numpy(),
        pre_quant_scale=scale,
        input_amax=np.asarray((numbers.input_channel_amax * scale).max()) if quantizes_input else None,
    )
