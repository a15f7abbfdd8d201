"""Results as plain lines, where a table would cost more time than the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trtbuild.core.report import PlannedStep, PlanReport


def plan_lines(report: PlanReport) -> Iterator[str]:
    """Every step in order: what a build would do with it, who does it, from what."""
    yield f"{report.recipe}: {', '.join(report.variants)}; compared with {report.reference}"
    yield f"built by {report.backend} ({report.backend_because})"
    for variant, what in report.approximates.items():
        yield f"{variant} approximates {what}"
    width = max(len(step.name) for step in report.steps)
    sentences = max(len(step.does) for step in report.steps)
    for step in report.steps:
        sources = ", ".join(dict.fromkeys(step.inputs.values())) or "the recipe"
        by = f" by {', '.join(dict.fromkeys(step.backends.values()))}" if step.backends else ""
        yield f"  {step.decision:<7} {step.name:<{width}}  {step.does.lower():<{sentences}}  from {sources}{by}"


def decision_lines(steps: Sequence[PlannedStep]) -> Iterator[str]:
    """Every step's decision with its reason."""
    width = max(len(step.name) for step in steps)
    for step in steps:
        yield f"{step.name:<{width}}  {step.decision:<7}  {step.reason}"
