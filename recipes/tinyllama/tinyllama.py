"""The text that tinyllama learns from and is judged on.

The text is Python's own documentation, so that the recipe needs no download; a token is a byte. Text and weights differ
a little between Python versions; perplexity ratios hardly do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trtbuild.datasets.documentation import documents

Array = np.ndarray[Any, Any]

BOS, EOS, PAD = 256, 257, 258
"""Tokens that are no byte: a document's begin and its end, and what fills a short row."""
VOCABULARY = 264
"""256 bytes and the three above, rounded up to a multiple of eight."""
CONTEXT = 256
"""Positions that the model is trained on."""


def token_ids(split: str) -> Array:
    """The documents of a split as one row of tokens, int64 [tokens]: each between BOS and EOS."""
    ids: list[int] = []
    for text in documents(split):
        ids += [BOS, *text.encode(), EOS]
    return np.array(ids, dtype=np.int64)


def passages(split: str, count: int, length: int = CONTEXT, rows: int = 8) -> Iterator[dict[str, Array]]:
    """Yield `count` passages of `length` tokens in batches of `rows`: `input_ids`, int64 [rows, length].

    `split` is `calibration`, from the documents that the model is trained on, or `evaluation`, from the others.
    Passages are spread evenly over the split's text and begin with BOS. Raises ValueError where the text has fewer
    without overlap.
    """
    text = token_ids(split)
    body = length - 1
    room = len(text) // body
    if count > room:
        raise ValueError(f"the {split} split has {room} passages of {length} tokens, {count} are wanted")
    starts = [number * len(text) // count for number in range(count)]
    ids = np.array([[BOS, *text[start : start + body]] for start in starts], dtype=np.int64)
    for first in range(0, count, rows):
        yield {"input_ids": ids[first : first + rows]}
