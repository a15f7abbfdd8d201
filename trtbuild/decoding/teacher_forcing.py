"""Two decoders on the same text, step by step: each reads the truth, so that an early error cannot hide later ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.tensor_file import Array
from trtbuild.core.values import Result
from trtbuild.decoding.decoder import Decoder
from trtbuild.decoding.likelihood import forced_logits, log_softmax


class ForcedAgreement(Result):
    """How a decoder's next-token distributions agree with the reference's; lists have one entry a step, mean over rows.

    Step 0 is behind the prompt, every later one behind one more token.
    """

    rows: int
    logits_cosine: list[float]
    """Cosine between the two logits, each less its mean: softmax does not see a constant."""
    kl_divergence: list[float]
    """Of the decoder's distribution from the reference's, in nats."""
    top1_agreement: list[float]
    """The share of rows where both find the same token the likeliest."""

    @property
    def means(self) -> dict[str, float]:
        """Each of the three over all steps, and the least cosine of a step."""
        return {
            "logits_cosine": float(np.mean(self.logits_cosine)),
            "logits_cosine_min": min(self.logits_cosine),
            "kl_divergence": float(np.mean(self.kl_divergence)),
            "top1_agreement": float(np.mean(self.top1_agreement)),
        }


def compare_forced(decoder: Decoder, reference: Decoder, texts: Sequence[Array], prompt: int) -> ForcedAgreement:
    """Both decoders on each of `texts` (int64 [rows, tokens], as many tokens each), the first `prompt` in one call.

    Raises DataError where the texts differ in length, logits are not finite, or both are one and the same.
    """
    if decoder is reference:
        raise DataError(
            "a decoder has one cache, so it cannot be its own reference", hint="give its session to another"
        )
    if len({ids.shape[1] for ids in texts}) != 1:
        raise DataError("teacher forcing needs texts of one length")
    steps = texts[0].shape[1] - prompt + 1
    cosine, nats, same = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    for ids in texts:
        pairs = zip(forced_logits(decoder, ids, prompt), forced_logits(reference, ids, prompt), strict=True)
        for step, (mine, theirs) in enumerate(pairs):
            if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
                raise DataError(f"logits at step {step} hold NaN or infinity")
            cosine[step] += _cosines(mine, theirs).sum()
            found, expected = log_softmax(mine), log_softmax(theirs)
            nats[step] += max(float((np.exp(expected) * (expected - found)).sum()), 0.0)
            same[step] += int((mine.argmax(axis=-1) == theirs.argmax(axis=-1)).sum())
    rows = sum(len(ids) for ids in texts)
    return ForcedAgreement(
        rows=rows,
        logits_cosine=list(cosine / rows),
        kl_divergence=list(nats / rows),
        top1_agreement=list(same / rows),
    )


def _cosines(mine: Array, theirs: Array) -> Array:
    first, second = (values.astype(np.float64) for values in (mine, theirs))
    first -= first.mean(axis=-1, keepdims=True)
    second -= second.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    products = (first * second).sum(axis=-1)
    equal = (first == second).all(axis=-1)  # logits without any direction: two such rows agree
    return np.asarray(np.where(lengths > 0, products / np.maximum(lengths, 1e-300), equal))
