"""Seeded normal numbers for the networks with random weights, which have no data of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

ROWS = 2
"""Rows a batch."""
SEEDS = {"calibration": 1, "evaluation": 2}


def normal(split: str, count: int, shapes: Mapping[str, list[int]]) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield `count` rows in batches of 2; `shapes` holds each input's shape behind the first axis. float32."""
    rng = np.random.default_rng(SEEDS[split])
    for begin in range(0, count, ROWS):
        rows = min(ROWS, count - begin)
        yield {name: rng.standard_normal((rows, *shape), np.float32) for name, shape in shapes.items()}
