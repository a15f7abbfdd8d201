"""Weights that were saved as a magnitude and a direction.

Weight normalization (Salimans and Kingma 2016) keeps w = g * v / |v|, the norm over all but the first axis. For
inference only w matters, and a graph that computes it anew in every call is slower and cannot be quantized.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from trtbuild.checkpoints.reading import Checkpoint

SPELLINGS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
"""Magnitude and direction, as `torch.nn.utils.weight_norm` and its successor in `parametrizations` name them."""


def fold_weight_norm(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with plain weights where it has magnitudes and directions."""
    gone: set[str] = set()
    made: dict[str, Callable[[], torch.Tensor]] = {}
    for name in checkpoint:
        for magnitude, direction in SPELLINGS:
            path = name.removesuffix(magnitude)
            if name.endswith(f".{magnitude}") and f"{path}{direction}" in checkpoint:
                gone |= {name, f"{path}{direction}"}
                made[f"{path}weight"] = _product(checkpoint, name, f"{path}{direction}")
    return checkpoint.replaced(gone, made)


def _product(checkpoint: Checkpoint, magnitude: str, direction: str) -> Callable[[], torch.Tensor]:
    def product() -> torch.Tensor:
        g, v = checkpoint[magnitude].float(), checkpoint[direction].float()
        norm = v.norm(dim=[axis for axis in range(v.ndim) if g.shape[axis] == 1], keepdim=True)
        return v * (g / norm)

    return product
