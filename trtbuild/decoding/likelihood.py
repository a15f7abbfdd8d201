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
    The arguments are those of `negative_log_likelihood`."""
    nats, counted = negative_log_likelihood(decoder, texts, tokens_per_call)
    return float(np.exp(nats / counted))


def negative_log_likelihood(decoder: Decoder, texts: Sequence[Array], tokens_per_call: int = 0) -> tuple[float, int]:
    """The sum of each token's negative log-likelihood given those before it in its row, in nats, and how many tokens
    that are: all but the first of each row, and those that the decoder reads and never writes.

    Each of `texts` is int64 [rows, tokens]. `tokens_per_call` reads a text in parts, so that later parts attend to a
    cache that earlier calls filled; 0 reads it in one. Raises DataError where no text has two tokens.
    """
    nats, counted = 0.0, 0
    for ids in texts:
        rows, tokens = ids.shape
        decoder.start(rows)
        part = tokens_per_call or tokens
        logits = [decoder.advance(ids[:, start : start + part]) for start in range(0, tokens, part)]
        found, predicted = surprise(np.concatenate(logits, axis=1), ids)
        nats, counted = nats + found, counted + predicted
    if not counted:
        raise DataError("perplexity needs texts of at least two tokens")
    return nats, counted


def surprise(logits: Array, input_ids: Array) -> tuple[float, int]:
    """The sum of the negative log-likelihoods, in nats, of every token but the first of each row [rows, tokens], by
    the logits behind the one before it [rows, tokens, vocabulary]; and how many tokens that are.

    A token beyond the vocabulary is one that the decoder reads and never writes, as a speech model reads text: it does
    not count.
    """
    nats, counted = 0.0, 0
    for row, ids in zip(logits, input_ids, strict=True):  # one at a time: FP64 of a large vocabulary is large
        written = ids[1:] < row.shape[-1]
        nats -= float(np.take_along_axis(log_softmax(row[:-1][written]), ids[1:][written, None], axis=-1).sum())
        counted += int(written.sum())
    return nats, counted


def log_softmax(logits: Array) -> Array:
    """Log-probabilities along the last axis, in FP64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
