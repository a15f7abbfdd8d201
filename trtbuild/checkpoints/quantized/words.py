"""Small unsigned integers, packed into 32-bit words from the lowest bits on."""

from __future__ import annotations

import torch

from trtbuild.checkpoints.quantized.weight import COPY
from trtbuild.core.errors import ModelError


def unpacked(name: str, words: torch.Tensor, bits: int, axis: int, order: tuple[int, ...] = ()) -> torch.Tensor:
    """The integers of int32 `words` [rows, columns], uint8, with `32 / bits` times as many along `axis`.

    `order` says which place of a group each part of a word goes to, from the lowest bits on; without it they go in
    turn. Raises ModelError where the words are no matrix of int32.
    """
    if words.dtype != torch.int32 or words.ndim != 2:
        raise ModelError(f"{name} is {words.dtype} {list(words.shape)}, not a matrix of packed int32", hint=COPY)
    parts = 32 // bits
    found = torch.empty((*words.shape, parts), dtype=torch.uint8)
    for part, place in enumerate(order or range(parts)):
        found[..., place] = (words >> (bits * part)) & (2**bits - 1)
    if axis == 1:
        return found.flatten(1)
    return found.permute(0, 2, 1).flatten(0, 1)
