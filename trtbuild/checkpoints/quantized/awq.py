"""AutoAWQ's `gemm` layout [casper-hansen/AutoAWQ, awq/modules/linear/gemm.py].

    qweight  int32 [in, out / 8]       eight outputs a word, in the order 0 2 4 6 1 3 5 7
    qzeros   int32 [groups, out / 8]   the same
    scales   float16 [groups, out]     W = (q - zero) * scale

AWQ's own scales went into the layers before, so that nothing is left to multiply the input by.
"""

from __future__ import annotations

import torch

from trtbuild.checkpoints.quantized.weight import COPY, FloatsOnly, QuantizedWeight, in_blocks
from trtbuild.checkpoints.quantized.words import unpacked
from trtbuild.core.errors import ModelError

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
ZERO = 8
"""The zero point of symmetric codes."""


def read(name: str, qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> QuantizedWeight | FloatsOnly:
    """One weight. Raises ModelError where the shapes do not fit each other."""
    codes = unpacked(f"{name}.qweight", qweight, 4, 1, ORDER)
    zeros = unpacked(f"{name}.qzeros", qzeros, 4, 1, ORDER)
    if scales.ndim != 2 or codes.shape[1] != scales.shape[1]:
        raise ModelError(
            f"{name}.qweight is {list(qweight.shape)} and its scales {list(scales.shape)}, not AWQ's gemm layout",
            hint=COPY,
        )
    return in_blocks(name, "int4", codes.T.contiguous(), zeros.T, scales.T, ZERO)
