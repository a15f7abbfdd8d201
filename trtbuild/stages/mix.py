"""One plan out of several: some modules in formats of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import ModelError
from trtbuild.core.formats import Format
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options

if TYPE_CHECKING:
    from trtbuild.core.quantization import Plan


class MixOptions(Options):
    """Which modules get which format."""

    overrides: dict[str, Format | Literal["high"]] = {}
    """Formats by module pattern; `high` leaves modules in high precision."""


@stage(version=1)
def mix(
    plan: QuantizationPlan, others: list[QuantizationPlan], options: MixOptions, work: Workspace
) -> QuantizationPlan:
    """Give some modules a format of their own.

    `others` hold the numbers of the formats that overrides name. Raises ModelError for a pattern that matches nothing,
    patterns that disagree about a module, and a module that a format cannot quantize.
    """
    from trtbuild.core.quantization import Plan  # numpy is heavy; a plan must not load it

    base, sources = Plan.read(plan), [Plan.read(other) for other in others]
    mixed = work.new(QuantizationPlan)
    overridden(base, [*sources, base], overridden_modules([base, *sources], options.overrides)).write(mixed)
    return mixed


Overridden = Mapping[str, tuple[str, Format | Literal["high"]]]
"""By module: the pattern that names it, and what it asks for."""


def overridden_modules(plans: list[Plan], overrides: Mapping[str, Format | Literal["high"]]) -> Overridden:
    """The modules that patterns name, among all that the plans know. Raises ModelError for a pattern that matches
    nothing, and for patterns that disagree."""
    from trtbuild.graph.selection import matched  # the ONNX floor is heavy

    known = dict.fromkeys(module for plan in plans for module in (*plan.modules, *plan.kept_high))
    kinds = {module: kind for plan in plans for module, kind in plan.classes.items()}
    classes = {module: [kinds[module]] if module in kinds else [] for module in known}
    given: dict[str, tuple[str, Format | Literal["high"]]] = {}
    for pattern, form in overrides.items():
        for module in matched("overrides", pattern, classes):
            other, asked = given.setdefault(module, (pattern, form))
            if asked != form:
                raise ModelError(
                    f"overrides: {pattern!r} and {other!r} both match {module}, and ask for {form} and {asked}",
                    hint="make one of the patterns narrower",
                )
    return given


def overridden(base: Plan, sources: list[Plan], given: Overridden) -> Plan:
    """The plan with some modules as other plans, the first that has the format, quantize them. Raises ModelError for a
    module that none does."""
    from dataclasses import replace

    modules, kept_high = dict(base.modules), dict(base.kept_high)
    for module, (pattern, form) in given.items():
        modules.pop(module, None)
        if form == "high":
            kept_high[module] = f"overrides: high for {pattern!r}"
            continue
        having = [plan for plan in sources if module in plan.modules and plan.modules[module].format == form]
        if not having:
            raise ModelError(
                f"overrides: {module} cannot be {form}: {_why(module, form, sources)}",
                hint="give it another format, or `high`",
            )
        modules[module] = having[0].modules[module]
        kept_high.pop(module, None)
    return replace(base, modules=modules, kept_high=kept_high)


def _why(module: str, form: str, sources: list[Plan]) -> str:
    """What the plan of a format says of a module that it leaves alone."""
    plans = [plan for plan in sources if any(numbers.format == form for numbers in plan.modules.values())]
    reasons = [plan.kept_high[module] for plan in plans if module in plan.kept_high]
    return reasons[0] if reasons else f"calibration has no {form} numbers for it"
