"""GPTQ: round a weight column by column, and let the columns still to come make up for each rounding.

Frantar et al. 2022, "GPTQ: accurate post-training quantization for generative pre-trained transformers", algorithm 1.
Any grid will do: FP8's is uneven, and GPTQ does not ask. ModelOpt 0.47 has GPTQ too; it is not used, because it
quantizes the whole matrix again for each column, which costs out x in^2 roundings a layer, and holds every layer's
Hessian at once.
"""

from __future__ import annotations

import math

import torch

from trtbuild.core.errors import ModelError
from trtbuild.core.formats import GREATEST, NumberType

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of its mean (section 3.3, step 3)."""
LAZY = 128
"""Columns that are rounded before the rest of the matrix is updated (section 3.3, step 2)."""


class Hessian:
    """H = X^T X [in, in] of a layer's inputs, summed over calls. Twice its mean is the Hessian of the squared error of
    the layer's output, and GPTQ does not see a constant factor."""

    def __init__(self) -> None:
        self.sum = torch.zeros(0, 0)

    def add(self, x: torch.Tensor) -> None:
        """Add the rows of one input [..., in]."""
        rows = x.detach().float().reshape(-1, x.shape[-1])
        if not self.sum.numel():
            self.sum = rows.new_zeros(rows.shape[1], rows.shape[1])
        self.sum.addmm_(rows.T, rows)

    def scale(self, factors: torch.Tensor) -> None:
        """As if each input had been multiplied by its factor [in]."""
        self.sum.mul_(factors[:, None]).mul_(factors)

    def taken(self) -> torch.Tensor:
        """The sum, of which nothing is left here: it is as large as a weight, or larger."""
        taken, self.sum = self.sum, torch.zeros(0, 0)
        return taken


def quantize(weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, kind: NumberType) -> torch.Tensor:
    """W [out, in] on the grid of a type, in units of its scale: [out, in] float32, for inputs with this H [in, in].

    `scale` [out, in] is fixed from the start. Columns go from the greatest diagonal entry of H to the least, so those
    that matter most are rounded while most others can still make up for it ("act order" of the authors' code). A
    channel that was zero in every sample has no influence on any other and is rounded to nearest. Raises ModelError
    where H is no use even with more damping.
    """
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    permuted = hessian[order[:, None], order]
    del hessian  # as large as a weight, or larger: the caller keeps none either
    upper = _inverse_factor(permuted)
    del permuted
    # Transposed, so that what the paper calls a column lies together in memory.
    scale = scale.T[order]
    left = weight.float().T[order]  # a copy: what is still to be rounded, corrected as we go
    rounded = torch.zeros_like(left)
    for start in range(0, len(left), LAZY):
        end = min(start + LAZY, len(left))
        errors = torch.zeros_like(left[start:end])
        for column in range(start, end):
            rounded[column] = nearest(left[column] / scale[column], kind)
            error = (left[column] - rounded[column] * scale[column]) / upper[column, column]
            left[column:end].addr_(upper[column, column:end], error, alpha=-1.0)
            errors[column - start] = error
        left[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1.0)
    return rounded[torch.argsort(order)].T.contiguous()


def nearest(values: torch.Tensor, kind: NumberType) -> torch.Tensor:
    """The nearest numbers of a type, half to even; what is too great becomes the greatest."""
    limited = values.clamp(-GREATEST[kind], GREATEST[kind])
    return limited.to(torch.float8_e4m3fn).float() if kind == "fp8" else limited.round()


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped H^-1 [in, in]; row i holds how column i's error moves the later ones.

    `hessian` is overwritten.
    """
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0.0] = 1.0
    mean = float(diagonal.mean())
    for damping in (DAMPING, 9 * DAMPING, 90 * DAMPING) if math.isfinite(mean) else ():  # each on top of those before
        diagonal.add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if failed:
            continue
        inverse = torch.cholesky_inverse(lower)
        del lower
        upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if not failed:
            return upper
    raise ModelError(
        "GPTQ cannot invert the Hessian of the inputs",
        hint="calibrate on more and on more varied samples, or use int4_awq",
    )
