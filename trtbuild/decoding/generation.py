"""Prompts in, tokens out as they come: one call that reads the prompts, then one call a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.values import Result
from trtbuild.decoding.cache import float16_bytes, size_bytes
from trtbuild.decoding.decoder import Decoder, padded
from trtbuild.decoding.sampling import Sampling, choose

Ending = Literal["stop", "length", "capacity"]
"""Why a row ends: a stop token, as many tokens as were asked for, or no more room in the cache."""


class NewToken(NamedTuple):
    """One token of one row."""

    row: int
    token: int


class Speed(Result):
    """What a generation cost."""

    prompt_tokens: int
    """Of all rows together."""
    new_tokens: int
    """Of all rows together, stop tokens included."""
    first_token_ms: float
    """From the first call to the first tokens: the time to read the prompts."""
    decode_tokens_per_s: float
    """Of all rows together, after the first token of each; 0 where there is none."""
    cache_bytes: int
    """What the cache takes, scales included."""
    cache_bytes_fp16: int
    """What it would take in FP16."""


class Generation:
    """Rows being written, each until a stop token, `max_new_tokens`, or a full cache. Iterate over it once.

    A row's tokens do not depend on what else is in the batch, as far as the engine's arithmetic does not.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 128,
        sampling: Sampling | None = None,
        stop_tokens: Sequence[int] = (),
    ) -> None:
        """Raises DataError where there is no prompt, one is empty, or one leaves no room for a token."""
        self._decoder = decoder
        self._prompts = [list(prompt) for prompt in prompts]
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling or Sampling()
        self._stop_tokens = frozenset(stop_tokens)
        self.rows: list[list[int]] = [[] for _ in prompts]
        """The new tokens of each row so far, without the stop token."""
        self.endings: list[Ending | None] = [None] * len(prompts)
        """Why each row ended; None while it goes on."""
        self._first_s = self._decoding_s = 0.0
        self._decoded = 0
        _check(self._prompts, max_new_tokens, decoder.layout.capacity)

    def __iter__(self) -> Iterator[NewToken]:
        """Every new token as it comes, in turns of the rows; a stop token ends its row and is not given."""
        decoder, generators = self._decoder, self._sampling.generators(len(self._prompts))
        decoder.start(len(self._prompts))
        ids, counts = padded(self._prompts)
        began = perf_counter()
        logits = decoder.advance(ids, counts)
        behind = logits[np.arange(len(counts)), counts - 1]
        while True:
            chosen = np.zeros(len(self.rows), np.int64)
            going = self._going()
            for row in going:
                chosen[row] = choose(behind[row], self._sampling, generators[row])
            self._clock(perf_counter() - began, len(going))
            for row in going:
                if (token := self._take(row, int(chosen[row]))) is not None:
                    yield NewToken(row, token)
            if not (going := self._going()):
                return
            began = perf_counter()
            active = np.isin(np.arange(len(self.rows)), going)
            decoder.hold(~active)
            behind = decoder.advance(chosen[:, None], active.astype(np.int64))[:, 0]

    def _going(self) -> list[int]:
        return [row for row, ending in enumerate(self.endings) if ending is None]

    def _take(self, row: int, token: int) -> int | None:
        """Add a token to its row, and see whether the row ends with it; None for a stop token."""
        if token in self._stop_tokens:
            self.endings[row] = "stop"
            return None
        self.rows[row].append(token)
        if len(self.rows[row]) == self._max_new_tokens:
            self.endings[row] = "length"
        elif self._decoder.lengths[row] == self._decoder.layout.capacity:
            self.endings[row] = "capacity"
        return token

    def _clock(self, elapsed_s: float, tokens: int) -> None:
        if not self._first_s:
            self._first_s = elapsed_s
        else:
            self._decoding_s += elapsed_s
            self._decoded += tokens

    def speed(self) -> Speed:
        """What it cost so far; what the caller did between tokens does not count."""
        batch = len(self._prompts)
        return Speed(
            prompt_tokens=sum(map(len, self._prompts)),
            new_tokens=self._decoded + (batch if self._first_s else 0),
            first_token_ms=1e3 * self._first_s,
            decode_tokens_per_s=self._decoded / self._decoding_s if self._decoding_s else 0.0,
            cache_bytes=size_bytes(self._decoder.cache),
            cache_bytes_fp16=float16_bytes(self._decoder.layout, batch),
        )


def _check(prompts: list[list[int]], max_new_tokens: int, capacity: int) -> None:
    if not prompts:
        raise DataError("there is no prompt")
    if max_new_tokens < 1:
        raise DataError(f"max_new_tokens is {max_new_tokens}: at least 1 is needed")
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {number} has no tokens", hint="write at least one character")
        # The token behind a prompt that fills the cache needs no room of its own.
        if len(prompt) > capacity:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens, the cache holds {capacity}",
                hint="shorten it, or export with a greater capacity",
            )
