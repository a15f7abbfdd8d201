"""Whether a classifier still names the same class."""

from __future__ import annotations

from collections.abc import Sequence

from trtbuild.core.tensor_file import Tensors


def agreement(
    outputs: Sequence[Tensors],
    reference_outputs: Sequence[Tensors],
    inputs: Sequence[Tensors],
    *,
    output: str = "logits",
) -> dict[str, float]:
    """The share of rows whose greatest logit is at the same class: `top1_agreement`. `output` is [rows, classes]."""
    del inputs
    pairs = zip(outputs, reference_outputs, strict=True)
    same = [mine[output].argmax(-1) == theirs[output].argmax(-1) for mine, theirs in pairs]
    return {"top1_agreement": float(sum(each.sum() for each in same) / sum(each.size for each in same))}
