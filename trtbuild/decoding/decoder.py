"""One batch in flight: the cache that its tokens have filled, and how many each row has."""

from __future__ import annotations

import numpy as np

from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.kv_cache import OUT, KvCache
from trtbuild.core.roles import Session
from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.decoding.cache import empty


class Decoder:
    """A session with the state of one batch. `start` a batch, then `advance` it: first by prompts, then by tokens."""

    def __init__(self, session: Session, layout: KvCache) -> None:
        self.session = session
        self.layout = layout
        self.cache: Tensors = {}
        """Every tensor of the cache by name, [batch, kv_heads, capacity, ...]."""
        self.lengths: Array = np.zeros(0, np.int64)
        """Tokens that each row has in the cache, [batch]; what lies beyond is never attended."""

    def start(self, batch: int) -> None:
        """Begin a batch of `batch` rows with an empty cache."""
        self.cache = empty(self.layout, batch)
        self.lengths = np.zeros(batch, np.int64)

    def advance(self, input_ids: Array, counts: Array | None = None) -> Array:
        """Append tokens, and return the logits behind each of them: float32 [batch, tokens, vocabulary].

        `input_ids` is int64 [batch, tokens], padded on the right; `counts` [batch] says how many of each row are real
        (all where it is not given). Logits behind padding mean nothing, and the next call overwrites its cache.
        Raises DataError where a row has no room, ModelError where the graph lacks an output.
        """
        tokens = input_ids.shape[1]
        if len(self.lengths) and (full := int(self.lengths.max()) + tokens) > self.layout.capacity:
            raise DataError(
                f"{full} tokens do not fit the cache, which holds {self.layout.capacity} a row",
                hint="shorten the prompt, ask for fewer new tokens, or export with a greater capacity",
            )
        feed = {"input_ids": input_ids.astype(np.int64), "lengths": self.lengths, **self.cache}
        outputs = self.session.infer(feed)
        try:
            logits = outputs["logits"]
            self.cache = {name: outputs[name + OUT] for name in self.cache}
        except KeyError as error:
            raise ModelError(
                f"the graph has no output {error}", hint="is it a decoder exported with a cache?"
            ) from error
        self.lengths = self.lengths + (tokens if counts is None else counts)
        return logits.astype(np.float32)

    def hold(self, rows: Array) -> None:
        """Keep finished rows (bool [batch]) inside the cache, so that they can ride along: their last token makes room
        where they are full."""
        self.lengths = np.where(rows, np.minimum(self.lengths, self.layout.capacity - 1), self.lengths)


def padded(rows: list[list[int]]) -> tuple[Array, Array]:
    """Rows of tokens, padded on the right with 0: int64 [batch, tokens], and the length of each, [batch]."""
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.zeros((len(rows), int(counts.max(initial=0))), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids, counts
