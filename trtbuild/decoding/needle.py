"""Whether a decoder still finds what it read long ago: a key and a value hidden in a haystack, then the key alone.

Average quality says little about that: an FP8 attention kernel with a narrow accumulator fell from 91 to 13 % of the
needles at long context (vLLM, April 2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.tensor_file import Array
from trtbuild.core.values import Result
from trtbuild.decoding.decoder import Decoder, padded
from trtbuild.decoding.likelihood import log_softmax


class Trial(NamedTuple):
    """One needle in one haystack."""

    prompt: list[int]
    """Haystack with key and value in it, and the key again at its end."""
    value: list[int]
    """What must follow."""
    depth: float
    """Where the needle lies: 0 at the begin of the haystack, 1 at its end."""


class Retrieval(Result):
    """How well values were found again; the reader of a ratio to a reference needs both decoders' numbers."""

    found: float
    """The share of trials whose value is the likeliest text, token for token."""
    tokens_found: float
    """The share of value tokens that are the likeliest, given the ones before."""
    nll: float
    """Mean negative log-likelihood of a value token, in nats: moves before `found` does."""
    found_at: dict[str, float]
    """`found` by depth."""


def trials(
    haystack: Sequence[int],
    length: int,
    *,
    key: Sequence[int],
    alphabet: Sequence[int],
    value_tokens: int = 4,
    end: Sequence[int] = (),
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    repeats: int = 4,
    seed: int = 0,
) -> list[Trial]:
    """Trials whose prompts have `length` tokens: `repeats` at each depth, each with a random value of its own.

    The needle is `key`, `value_tokens` different tokens drawn from `alphabet`, `end`; the haystack is tokens of
    ordinary text, and begins elsewhere in each trial. Raises DataError where haystack or alphabet are too short.
    """
    generator = np.random.default_rng(seed)
    needle_length = len(key) + value_tokens + len(end)
    hay = length - needle_length - len(key)
    if not 0 < hay <= len(haystack):
        raise DataError(f"a haystack of {hay} tokens is wanted, {len(haystack)} are there")
    if value_tokens > len(alphabet):
        raise DataError(f"{value_tokens} different tokens are wanted, the alphabet has {len(alphabet)}")
    made = []
    for depth in depths:
        for _ in range(repeats):
            start = int(generator.integers(len(haystack) - hay + 1))
            text = list(haystack[start : start + hay])
            value = [int(token) for token in generator.choice(np.asarray(alphabet), value_tokens, replace=False)]
            place = round(depth * hay)
            prompt = [*text[:place], *key, *value, *end, *text[place:], *key]
            made.append(Trial(prompt, value, depth))
    return made


def retrieval(decoder: Decoder, asked: Sequence[Trial], rows: int = 8) -> Retrieval:
    """Read each prompt in one call, then the value token by token, as a generation would, `rows` trials at a time."""
    if not asked:
        raise DataError("there is no needle to look for")
    right, nats = [], []
    for first in range(0, len(asked), rows):
        hits, losses = _read(decoder, asked[first : first + rows])
        right += list(hits)
        nats += list(losses)
    whole = [bool(hits.all()) for hits in right]
    depths = dict.fromkeys(trial.depth for trial in asked)
    return Retrieval(
        found=float(np.mean(whole)),
        tokens_found=float(np.mean(np.concatenate(right))),
        nll=float(np.mean(np.concatenate(nats))),
        found_at={
            f"{depth:g}": float(np.mean([hit for hit, trial in zip(whole, asked, strict=True) if trial.depth == depth]))
            for depth in depths
        },
    )


def _read(decoder: Decoder, asked: Sequence[Trial]) -> tuple[Array, Array]:
    """Of each trial and value token: whether it was the likeliest, and its negative log-likelihood."""
    values = np.array([trial.value for trial in asked])
    ids, counts = padded([trial.prompt for trial in asked])
    decoder.start(len(asked))
    behind = decoder.advance(ids, counts)[np.arange(len(asked)), counts - 1]
    right, nats = [], []
    for position in range(values.shape[1]):
        wanted = values[:, position]
        right.append(behind.argmax(axis=-1) == wanted)
        nats.append(-np.take_along_axis(log_softmax(behind), wanted[:, None], axis=-1)[:, 0])
        if position + 1 < values.shape[1]:
            behind = decoder.advance(wanted[:, None])[:, 0]
    return np.stack(right, axis=1), np.stack(nats, axis=1)
