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
    where H is no use even with more damping. Memory: one more matrix [in, in], two more [out, in].
    """
    order = torch.argsort(hessian.diagonal(), stable=True)  # from the least to the greatest: we begin at the end
    factor = _inverse_factor(hessian, order)
    del hessian  # as large as a weight, or larger: the caller keeps none either
    # Transposed, so that what the paper calls a column lies together in memory.
    scale = scale.T[order]
    left = weight.float().T[order]  # a copy: what is still to be rounded, corrected as we go; behind that, codes
    for end in range(len(left), 0, -LAZY):
        start = max(end - LAZY, 0)
        errors = torch.zeros_like(left[start:end])
        for column in range(end - 1, start - 1, -1):
            code = nearest(left[column] / scale[column], kind)
            error = (left[column] - code * scale[column]) / factor[column, column]
            left[start:column].addr_(factor[column, start:column], error, alpha=-1.0)
            errors[column - start] = error
            left[column] = code
        left[:start].addmm_(factor[start:end, :start].T, errors, alpha=-1.0)
    codes = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.contiguous_format)
    codes[:, order] = left.T
    return codes


def nearest(values: torch.Tensor, kind: NumberType) -> torch.Tensor:
    """The nearest numbers of a type, half to even; what is too great becomes the greatest."""
    limited = values.clamp(-GREATEST[kind], GREATEST[kind])
    return limited.to(torch.float8_e4m3fn).float() if kind == "fp8" else limited.round()


def _inverse_factor(hessian: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """M [in, in], lower triangular, with M^T M the inverse of the damped H in this order; row i holds how column i's
    error moves the earlier ones.

    M is the inverse of H's lower Cholesky factor L, for H^-1 = (L L^T)^-1 = L^-T L^-1. The paper goes forward through
    the columns and takes the upper factor of H^-1, which needs H^-1 itself; backward the numbers are the same.
    """
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0.0] = 1.0
    mean = float(diagonal.mean())
    for damping in (DAMPING, 10 * DAMPING, 100 * DAMPING) if math.isfinite(mean) else ():
        permuted = hessian[order[:, None], order]
        permuted.diagonal().add_(damping * mean)
        lower, failed = permuted.mT, torch.zeros((), dtype=torch.int32)  # column-major, as LAPACK wants it to be
        torch.linalg.cholesky_ex(lower, out=(lower, failed))
        if not failed:
            return _inverted(lower)
    raise ModelError(
        "GPTQ cannot invert the Hessian of the inputs",
        hint="calibrate on more and on more varied samples, or use int4_awq",
    )


def _inverted(lower: torch.Tensor) -> torch.Tensor:
    """The inverse of a lower triangular matrix, in place: some rows after the other, each by those above it."""
    for start in range(0, len(lower), LAZY):
        rows, above = slice(start, start + LAZY), slice(start)
        corner = lower[rows, rows]
        inverse = torch.linalg.solve_triangular(corner, torch.eye(len(corner)), upper=False)
        lower[rows, above] = -inverse @ (lower[rows, above] @ lower[above, above])
        lower[rows, rows] = inverse
    return lower
