"""What a decoder thinks of a text: its logits for every token given those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.tensor_file import Array
from trtbuild.decoding.decoder import Decoder


def forced_logits(decoder: Decoder, input_ids: Array, prompt: int) -> Iterator[Array]:
    """Read `prompt` tokens in one call and the others one by one, whatever the decoder would have said.

    `input_ids` is int64 [rows, tokens]. Yields the logits behind each call's last token, [rows, vocabulary]:
    tokens - prompt + 1 times, the first behind the prompt. Raises DataError where the prompt is not shorter than the
    text.
    """
    rows, tokens = input_ids.shape
    if not 1 <= prompt < tokens:
        raise DataError(f"a prompt of {prompt} tokens in a text of {tokens}: at least one must be on each side")
    decoder.start(rows)
    yield decoder.advance(input_ids[:, :prompt])[:, -1]
    for position in range(prompt, tokens):
        yield decoder.advance(input_ids[:, position : position + 1])[:, -1]


def perplexity(decoder: Decoder, texts: Sequence[Array], tokens_per_call: int = 0) -> float:
    """exp of the mean negative log-likelihood of each token given those before it in its row, first tokens left out.

    Each of `texts` is int64 [rows, tokens]. `tokens_per_call` reads a text in parts, so that later parts attend to a
    cache that earlier calls filled; 0 reads it in one.
    """
    nats, counted = 0.0, 0
    for ids in texts:
        rows, tokens = ids.shape
        decoder.start(rows)
        part = tokens_per_call or tokens
        logits = [decoder.advance(ids[:, start : start + part]) for start in range(0, tokens, part)]
        found = log_softmax(np.concatenate(logits, axis=1)[:, :-1])
        nats -= float(np.take_along_axis(found, ids[:, 1:, None], axis=-1).sum())
        counted += rows * (tokens - 1)
    if not counted:
        raise DataError("perplexity needs texts of at least two tokens")
    return float(np.exp(nats / counted))


def log_softmax(logits: Array) -> Array:
    """Log-probabilities along the last axis, in FP64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
