"""Whether a text encoder still says the same of each token, padding left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtbuild.core.tensor_file import Tensors


def agreement(
    outputs: Sequence[Tensors],
    reference_outputs: Sequence[Tensors],
    inputs: Sequence[Tensors],
    *,
    output: str = "last_hidden_state",
    mask: str = "attention_mask",
) -> dict[str, float]:
    """The cosine between each token's hidden state and the reference's: `token_cosine_mean` and `token_cosine_min`.

    `output` is [rows, tokens, width]; tokens whose `mask` [rows, tokens] is 0 count for nothing, and without such an
    input all count.
    """
    found = []
    for mine, theirs, batch in zip(outputs, reference_outputs, inputs, strict=True):
        one, other = mine[output].astype(np.float64), theirs[output].astype(np.float64)
        norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        cosines = (one * other).sum(-1) / np.maximum(norms, np.finfo(np.float64).tiny)
        found.append(cosines[batch[mask] != 0] if mask in batch else cosines.reshape(-1))
    every = np.concatenate(found)
    return {"token_cosine_mean": float(every.mean()), "token_cosine_min": float(every.min())}
