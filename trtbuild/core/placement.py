"""Where Q/DQ may stand beside the layers themselves, and what a search among the placements found.

Which one is fastest depends on the network, the backend and its version. `layers` quantizes what the plan asks for;
the others quantize the attention's products, or what skips the layers of residual additions, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

from trtbuild.core.layer_times import OUTSIDE
from trtbuild.core.values import Result

Placement = Literal["layers", "layers+attention", "layers+residual", "layers+attention+residual"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

Place = Literal["layers", "attention", "residual"]
"""A kind of operand that a placement quantizes or leaves."""

Choice = Literal["layers", "layers+attention", "layers+residual", "layers+attention+residual", "high", "mixed"]
HIGH: Final = "high"
"""Nothing quantized: a choice for a block, never for all of them."""
MIXED: Final = "mixed"
"""Blocks with choices of their own: one for the whole network alone."""


class Tried(Result):
    """One placement over the whole network, as it ran on the target."""

    placement: Choice
    """`high` is the engine without quantization."""
    median_ms: float | None = None
    """Time of one call at the `opt` shapes; None where it was not timed."""
    speedup: float = 0.0
    """Against the engine without quantization, timed in turns with it."""
    accuracy: dict[str, float] = {}
    """Agreement with the engine without quantization, by metric."""
    refused: str = ""
    """Why it cannot be kept: it does not build, its outputs are wrong, it is the same graph as another."""


class PlacementChoice(Result):
    """What a search among placements keeps."""

    kept: Placement | Literal["mixed"]
    because: str
    """Why, in words, with the time of each."""
    best: Placement
    """The fastest one over the whole network."""
    blocks: dict[str, Choice]
    """The choice for each block of modules, by module path; the empty path is what lies in no block."""
    tried: list[Tried]
    """All that was tried, in the order in which it was."""

    def quantizes(self, module: str, place: Place) -> bool:
        """Whether a place of a module is to be quantized."""
        inside = [block for block in self.blocks if block and (module == block or module.startswith(f"{block}."))]
        choice = self.blocks.get(max(inside, key=len, default=OUTSIDE), self.best)
        return place in choice.split("+")


def told(kept: str, tried: Sequence[Tried]) -> str:
    """What is kept, beside the speed of everything tried, fastest first, or why it has none."""
    timed = sorted((one for one in tried if not one.refused), key=lambda one: -one.speedup)
    words = [f"{one.placement} {one.median_ms:.3f} ms ({one.speedup:.2f} x)" for one in timed]
    words += [f"{one.placement} {one.refused}" for one in tried if one.refused]
    return f"{kept} is kept; " + ", ".join(words)
