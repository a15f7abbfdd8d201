"""Which engines of a bundle to take: by name, by variant, or what runs best on this machine."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from trtbuild.bundle.manifest import Bundle, EngineEntry
from trtbuild.core.errors import DestinationError
from trtbuild.core.target import Machine, misfit


def choose(
    bundle: Bundle,
    here: Machine,
    *,
    engines: Sequence[str] = (),
    variants: Sequence[str] = (),
    everything: bool = False,
    allow_failed: bool = False,
) -> tuple[list[EngineEntry], str]:
    """The engines to take, and why these.

    Raises DestinationError where none fits, with the reason for each.
    """
    if everything:
        return list(bundle.engines), "all were asked for"
    if engines:
        return [_named(bundle, name) for name in engines], "asked for by name"
    candidates = [engine for engine in bundle.engines if not variants or engine.variant in variants]
    if not candidates:
        known = ", ".join(sorted({engine.variant for engine in bundle.engines}))
        raise DestinationError(f"the bundle has no variant {', '.join(variants)}", hint=f"there are: {known}")
    reasons = {engine.name: _unfit(engine, here, allow_failed) for engine in candidates}
    fitting = [engine for engine in candidates if reasons[engine.name] is None]
    if not fitting:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise DestinationError(
            f"no engine of {bundle.recipe} {bundle.version} fits this machine ({here}): {listed}",
            hint="build the recipe here and package it as well; --engine NAME takes one all the same",
        )
    best = min(fitting, key=lambda engine: _rank(engine, here))
    others = f", the fastest of {len(fitting)} that do" if len(fitting) > 1 else ""
    return [best], f"it fits this machine ({here}){others}"


def _named(bundle: Bundle, name: str) -> EngineEntry:
    for engine in bundle.engines:
        if engine.name == name:
            return engine
    names = [engine.name for engine in bundle.engines]
    close = difflib.get_close_matches(name, names, n=1)
    raise DestinationError(
        f"the bundle has no engine {name}",
        hint=f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}",
    )


def _unfit(engine: EngineEntry, here: Machine, allow_failed: bool) -> str | None:
    if engine.verdict.outcome == "failed" and not allow_failed:
        return "it failed its gates"
    return misfit(engine.target, here)


def _rank(engine: EngineEntry, here: Machine) -> tuple[bool, bool, float]:
    """GPU before processor; engines that were measured on this very GPU before others; the faster before the slower."""
    target = engine.target
    exact = here.device is not None and target.gpu == here.device.name
    return (target.sm is None, not exact, engine.verdict.median_ms)
