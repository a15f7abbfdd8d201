"""Advice on formats as one value: proposals in order, each with its reasons and the recipe lines to paste."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.formats import Format
from trtbuild.core.values import Result

Goal = Literal["accuracy", "memory", "latency"]


class Proposal(Result):
    """One format, and what speaks for and against it here. Times are lower bounds from data sheets, not measured."""

    format: Format
    variant: str
    """The name of the variant: the recipe's own where it has the format already."""
    why: list[str]
    traps: list[str]
    """What is known to go wrong, and where it will show."""
    weight_mb: float | None
    """Estimated megabytes of all weights in this format; None where the model's size is not known."""
    bound_ms: float | None
    """Estimated least time of the linear layers of one call at the `opt` shapes: the longer of reading the weights
    and of multiplying."""
    bound_by: Literal["memory", "compute"] | None
    recipe_lines: str
    """YAML for below `variants:`; empty where the recipe has the format already."""


class Refused(Result):
    """A format that cannot run on the target."""

    format: Format
    reason: str
    nearest: Format | None


class Advice(Result):
    """What to try first for a recipe on a machine, by reasoning alone."""

    recipe: str
    goal: Goal
    target: str
    """The machine and the builder in words."""
    model: str
    """The model's size in words."""
    parameters: int | None
    rows: int
    """How many rows each weight matrix is multiplied with in one call at the `opt` shapes."""
    baseline: str
    """What limits the 16-bit engine, in words."""
    proposals: list[Proposal]
    refused: list[Refused]
    notes: list[str]
    measured: Literal[False] = False
    """Always: `trtbuild build` measures."""
