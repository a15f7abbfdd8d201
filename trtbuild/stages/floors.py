"""Accuracy floors with a margin: what a plan must reach on some samples to be likely to pass its gates on others."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.stages.judge import Bound


def tightened(bounds: Mapping[str, Bound], margin: float, at_high: Mapping[str, float]) -> dict[str, Bound]:
    """Each bound moved towards what the model reaches in high precision, by `margin` of the room between the two.

    The room of `snr_db` is counted in the amplitude of the noise. `at_high` holds the metrics with nothing quantized.
    Raises RecipeError for a metric that nothing measures, ModelError where high precision misses a bound already.
    """
    found: dict[str, Bound] = {}
    for name, bound in bounds.items():
        if name not in at_high:
            raise RecipeError(
                f"gates.accuracy asks for {name}, which nothing measured", hint=f"there are: {', '.join(at_high)}"
            )
        best = at_high[name]
        if miss := missed(name, best, bound):
            raise ModelError(
                f"{miss}, with every module in high precision", hint="no quantization can reach it: relax the gate"
            )
        found[name] = Bound(
            min=None if bound.min is None else _raised(name, bound.min, best, margin),
            max=None if bound.max is None else bound.max - margin * (bound.max - best),
        )
    return found


def _raised(name: str, least: float, best: float, margin: float) -> float:
    if name == "snr_db":
        return min(least - 20 * math.log10(1 - margin), best)
    return least + margin * (best - least)


def missed(name: str, value: float, bound: Bound) -> str | None:
    """In words, by how much a value is outside; None where it is inside."""
    if bound.min is not None and not value >= bound.min:
        return f"{name} is {value:.5g}, at least {bound.min:.5g} is wanted"
    if bound.max is not None and not value <= bound.max:
        return f"{name} is {value:.5g}, at most {bound.max:.5g} is wanted"
    return None
