"""The next token from logits: the likeliest, or one drawn from a distribution cut to its head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.tensor_file import Array


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Equal settings, seeds and logits give equal tokens."""

    temperature: float = 0.0
    """What logits are divided by; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0 means all."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probabilities reach this sum (nucleus sampling, Holtzman et al. 2020)."""
    seed: int = 0
    """Row r of a batch draws from seed + r, whatever the other rows do."""

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and np.isfinite(self.temperature)):
            raise DataError(f"temperature is {self.temperature}: it must be 0 (greedy) or above")
        if self.top_k < 0:
            raise DataError(f"top_k is {self.top_k}: it must be 0 (all tokens) or above")
        if not 0 < self.top_p <= 1:
            raise DataError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.seed < 0:
            raise DataError(f"seed is {self.seed}: it must be 0 or above")

    def generators(self, rows: int) -> list[np.random.Generator]:
        """One source of random numbers for each row."""
        return [np.random.default_rng(self.seed + row) for row in range(rows)]


def choose(logits: Array, sampling: Sampling, generator: np.random.Generator) -> int:
    """The next token of a row, from its logits [vocabulary]. Raises DataError where one of them is NaN."""
    if np.isnan(logits).any():
        raise DataError("the engine's logits hold NaN", hint="validate the engine: it cannot generate text")
    if sampling.temperature == 0:
        return int(logits.argmax())
    order, probabilities = _head(logits.astype(np.float64) / sampling.temperature, sampling)
    drawn = generator.random() * probabilities.sum()
    # The last place is for a draw that rounding puts beyond the sum.
    place = min(int(np.searchsorted(np.cumsum(probabilities), drawn, side="right")), len(order) - 1)
    return int(order[place])


def _head(logits: Array, sampling: Sampling) -> tuple[Array, Array]:
    """Tokens that may be drawn, likeliest first, and their probabilities before the cut."""
    order = np.argsort(-logits, kind="stable")[: sampling.top_k or None]
    weights = np.exp(logits[order] - logits[order[0]])
    probabilities = weights / weights.sum()
    before = np.cumsum(probabilities) - probabilities
    kept = before < sampling.top_p
    return order[kept], probabilities[kept]
