"""Advice on formats as plain lines, ending in the recipe lines to paste."""

from __future__ import annotations

from collections.abc import Iterator

from trtbuild.core.advice import Advice, Proposal

_SHOWN = 3
"""Proposals with their reasons; the others get a line."""


def advice_lines(advice: Advice) -> Iterator[str]:
    """The model, what limits it, the proposals in order, what cannot run, and what to paste."""
    yield f"{advice.recipe} for {advice.goal} on {advice.target}"
    yield f"  model: {advice.model}"
    yield f"  {advice.baseline}"
    for place, proposal in enumerate(advice.proposals, start=1):
        yield f"{place}. {proposal.format}{_estimate(proposal)}{_existing(proposal)}"
        if place <= _SHOWN:
            yield from (f"     + {reason}" for reason in proposal.why)
            yield from (f"     ! {trap}" for trap in proposal.traps)
    for refused in advice.refused:
        nearest = f"; nearest: {refused.nearest}" if refused.nearest else ""
        yield f"-  {refused.format}: {refused.reason}{nearest}"
    yield from (f"note: {note}" for note in advice.notes)
    if paste := [proposal.recipe_lines for proposal in advice.proposals[:_SHOWN] if proposal.recipe_lines]:
        yield "to try the first ones, paste below `variants:`"
        yield "".join(paste).rstrip("\n")


def _estimate(proposal: Proposal) -> str:
    parts = [f"about {proposal.weight_mb:.0f} MB"] if proposal.weight_mb is not None else []
    if proposal.bound_ms is not None:
        parts.append(f"at least {proposal.bound_ms:.3g} ms, bound by {proposal.bound_by}")
    return f": {', '.join(parts)} (estimated)" if parts else ""


def _existing(proposal: Proposal) -> str:
    return "" if proposal.recipe_lines else f" [the recipe has it: {proposal.variant}]"
