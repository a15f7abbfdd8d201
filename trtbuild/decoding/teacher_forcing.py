"""Two decoders on the same text, step by step: each reads the truth, so that an early error cannot hide later ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.roles import Session
from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.core.values import Result
from trtbuild.decoding.cache_directions import directions
from trtbuild.decoding.decoder import Decoder
from trtbuild.decoding.likelihood import forced_logits, log_softmax

LOGITS = "logits"


class Forced(Session):
    """A decoder as a session of whole texts, for whoever compares sessions: one call reads a text step by step.

    It takes `input_ids`, int64 [rows, tokens], and gives `logits`, float32 [rows, steps, vocabulary], the first step
    being behind the first `prompt` tokens and each later one behind one more; and each layer's cache at the end, as
    `trtbuild.decoding.cache_directions` makes caches comparable.
    """

    def __init__(self, session: Session, layout: KvCache, prompt: int) -> None:
        self._decoder = Decoder(session, layout)
        self._prompt = prompt

    def infer(self, inputs: Tensors) -> Tensors:
        """Read one batch of texts. Raises DataError where they are not longer than the prompt."""
        steps = list(forced_logits(self._decoder, inputs["input_ids"], self._prompt))
        return {LOGITS: np.stack(steps, axis=1), **directions(self._decoder)}

    def close(self) -> None:
        """Close the engine's own session."""
        self._decoder.session.close()


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
            "top1_agreement": float(np.mean(self.top1_agreement)),
            "kl_divergence": float(np.mean(self.kl_divergence)),
            "logits_cosine": float(np.mean(self.logits_cosine)),
            "logits_cosine_min": min(self.logits_cosine),
        }


def agreement(logits: Sequence[Array], reference: Sequence[Array]) -> ForcedAgreement:
    """The agreement of two decoders' logits, text by text [rows, steps, vocabulary], as `Forced` gives them.

    Raises DataError where texts differ in their number of steps, or logits are not finite.
    """
    if len({found.shape[1] for found in (*logits, *reference)}) != 1:
        raise DataError("teacher forcing needs texts of one length")
    steps = logits[0].shape[1]
    cosine, nats, same = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    for mine_of_text, theirs_of_text in zip(logits, reference, strict=True):
        for step in range(steps):
            mine, theirs = mine_of_text[:, step], theirs_of_text[:, step]
            if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
                raise DataError(f"logits at step {step} hold NaN or infinity")
            cosine[step] += _cosines(mine, theirs).sum()
            found, expected = log_softmax(mine), log_softmax(theirs)
            nats[step] += max(float((np.exp(expected) * (expected - found)).sum()), 0.0)
            same[step] += int((mine.argmax(axis=-1) == theirs.argmax(axis=-1)).sum())
    rows = sum(len(found) for found in logits)
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
