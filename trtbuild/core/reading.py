"""What a decoder made of held-out texts: how likely it found them, and what it wrote behind their beginnings."""

from __future__ import annotations

from trtbuild.core.values import Result


class Reading(Result):
    """One decoder's reading of the evaluation texts."""

    nats: float | None
    """Negative log-likelihood of every token given those before it in its row, summed; first tokens left out. None
    where a logit was not finite."""
    tokens: int
    """How many tokens that is the sum of."""
    written: list[list[int]] = []
    """What it wrote behind the beginnings of some texts, each time taking the likeliest token."""
    needles_found: float | None = None
    """The share of hidden values that it found again; None where none were hidden."""
    needles_nats: float | None = None
    """Mean negative log-likelihood of the hidden values' tokens."""
    cache_row_bytes: int = 0
    """Bytes of one row's cache, scales included."""
    cache_row_bytes_fp16: int = 0
    """What it would take in FP16."""
