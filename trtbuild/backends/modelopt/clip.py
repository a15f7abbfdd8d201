"""Where to clip each block of an INT4 weight, so that the layer's output changes least.

The last step of AWQ, weight clipping (Lin et al. 2023; `auto_clip` in the authors' code). ModelOpt's `awq_clip` answers
the same question, but tries each clip on a few tokens of each batch and rounds the whole weight for each try: on
MiniLM it took minutes, and `awq_full` brought the mean cosine of embeddings to 0.956, where `awq_lite` alone has 0.965
and with this has 0.973. Here every token counts, because the squared error of a block's share of the output is
d^T H d, with d [size] a row's rounding error and H = X^T X [size, size] of the block's inputs.
"""

from __future__ import annotations

import torch

from trtbuild.core.formats import GREATEST

SHARES = tuple(1.0 - 0.05 * step for step in range(11))
"""Of a block's greatest magnitude: 1, 0.95 .. 0.5, as ModelOpt tries."""
ROWS = 256


class BlockHessians:
    """H = X^T X [blocks, size, size] of each block of neighbouring inputs, summed over calls."""

    def __init__(self, size: int) -> None:
        self.sum = torch.zeros(())
        self._size = size

    def add(self, x: torch.Tensor) -> None:
        """Add the rows of one input [..., in]."""
        rows = x.detach().float().reshape(-1, x.shape[-1] // self._size, self._size).transpose(0, 1)
        self.sum = self.sum + rows.transpose(1, 2) @ rows

    def scaled(self, factors: torch.Tensor) -> torch.Tensor:
        """What `sum` were if each input had been multiplied by its factor [in]."""
        vector = factors.reshape(-1, self._size)
        return self.sum * vector[:, :, None] * vector[:, None, :]


def best_amax(weight: torch.Tensor, hessians: torch.Tensor) -> torch.Tensor:
    """The greatest magnitude to say [out, blocks] of W [out, in], for `hessians` [blocks, size, size]."""
    # Some rows at a time: the search holds several copies of what it works on.
    return torch.cat([_best_amax(rows.detach().float(), hessians) for rows in weight.split(ROWS)])


def _best_amax(rows: torch.Tensor, hessians: torch.Tensor) -> torch.Tensor:
    blocks = rows.reshape(len(rows), len(hessians), -1)
    greatest = blocks.abs().amax(2)
    best, least = greatest, torch.full_like(greatest, torch.inf)
    for share in SHARES:
        scale = (greatest * (share / GREATEST["int4"])).clamp(min=2.0**-100)[..., None]
        error = (blocks / scale).round_().clamp_(-GREATEST["int4"], GREATEST["int4"]) * scale - blocks
        cost = (torch.einsum("obi,bij->obj", error, hessians) * error).sum(2)
        best = torch.where(cost < least, greatest * share, best)
        least = torch.minimum(cost, least)
    return best
