"""The scales of a weight's codes, from the greatest magnitudes that a plan holds."""

from __future__ import annotations

import torch

from trtbuild.core.formats import FORMATS, GREATEST
from trtbuild.core.quantization import ModuleQuantization

LEAST_SCALE = 2.0**-100
"""A channel of zeros gets this scale: never zero, codes of zero."""


def weight_scale(matrix: torch.Tensor, numbers: ModuleQuantization) -> torch.Tensor:
    """What the codes of a weight [out, in / groups, *kernel] are multiplied by, shaped to broadcast against it: from
    `weight_amax` [], [out] or [out, blocks]; never zero."""
    amax = torch.tensor(numbers.weight_amax, dtype=torch.float32)
    scale = (amax / GREATEST[FORMATS[numbers.format].weight]).clamp(min=LEAST_SCALE)
    if scale.ndim == 2:
        block = min(numbers.block_size or FORMATS[numbers.format].block, matrix.shape[1])
        return scale.repeat_interleave(block, dim=1)[:, : matrix.shape[1]]
    return scale.reshape(-1, *[1] * (matrix.ndim - 1)) if scale.numel() > 1 else scale.reshape(())
