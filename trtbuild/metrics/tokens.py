"""Whether a model that writes tokens still writes the same ones."""

from __future__ import annotations

from collections.abc import Sequence

from trtbuild.core.tensor_file import Tensors


def agreement(
    outputs: Sequence[Tensors], reference_outputs: Sequence[Tensors], inputs: Sequence[Tensors], *, output: str
) -> dict[str, float]:
    """The share of equal tokens: `token_agreement` over all, `token_agreement_min` of the worst batch.

    `output` names an integer tensor of any shape, the same in both.
    """
    del inputs
    same = [mine[output] == theirs[output] for mine, theirs in zip(outputs, reference_outputs, strict=True)]
    return {
        "token_agreement": float(sum(each.sum() for each in same) / sum(each.size for each in same)),
        "token_agreement_min": float(min(each.mean() for each in same)),
    }
