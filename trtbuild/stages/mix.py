"""One plan out of several: some modules in formats of their own."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import ModelError
from trtbuild.core.formats import Format
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options


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
    from trtbuild.core.quantization import Plan  # numpy and the ONNX floor are heavy; a plan must not load them
    from trtbuild.graph.selection import matched

    base = Plan.read(plan)
    by_format = {numbers.format: read for read in map(Plan.read, others) for numbers in read.modules.values()}
    known = dict.fromkeys(
        [*base.modules, *base.kept_high, *(name for read in by_format.values() for name in read.modules)]
    )
    classes = {name: [base.classes[name]] if name in base.classes else [] for name in known}
    given: dict[str, tuple[str, Format | Literal["high"]]] = {}
    for pattern, form in options.overrides.items():
        for module in matched("overrides", pattern, classes):
            other, asked = given.setdefault(module, (pattern, form))
            if asked != form:
                raise ModelError(
                    f"overrides: {pattern!r} and {other!r} both match {module}, and ask for {form} and {asked}",
                    hint="make one of the patterns narrower",
                )
    modules, kept_high = dict(base.modules), dict(base.kept_high)
    for module, (pattern, form) in given.items():
        modules.pop(module, None)
        if form == "high":
            kept_high[module] = f"overrides: high for {pattern!r}"
            continue
        source = by_format.get(form, base)
        if module not in source.modules or source.modules[module].format != form:
            reason = source.kept_high.get(module, f"calibration has no {form} numbers for it")
            raise ModelError(
                f"overrides: {module} cannot be {form}: {reason}", hint="give it another format, or `high`"
            )
        modules[module] = source.modules[module]
        kept_high.pop(module, None)
    mixed = work.new(QuantizationPlan)
    Plan(modules=modules, kept_high=kept_high, classes=base.classes, samples=base.samples).write(mixed)
    return mixed
