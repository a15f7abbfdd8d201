"""What a build would do, and why, without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtbuild.core.report import PlannedStep, PlanReport
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.decide import Decision, Reuse, Run, Unknown, decide
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.plan import Step
from trtbuild.pipeline.store import Action, Store
from trtbuild.recipe.load import load


def explain(recipe: str | Path, *, sets: Sequence[str] = (), variants: Sequence[str] = (), store: Path) -> PlanReport:
    """Decide every step as far as that is known before running, by the same `decide` that `build` asks."""
    loaded = load(recipe, sets)
    composition = compose(loaded, variants)
    opened = Store(store)
    files = FileDigests(store / "digests.sqlite")
    steps = []
    reused: dict[str, Action] = {}
    for step in composition.plan:
        pending = tuple(dict.fromkeys(ref.step for ref in step.inputs.values() if ref.step not in reused))
        decision: Decision = Unknown(pending)
        if not pending:
            digests = {parameter: reused[ref.step].outputs[ref.output].digest for parameter, ref in step.inputs.items()}
            decision = decide(step, digests, composition.plan.recipe, opened, files)
        if isinstance(decision, Reuse):
            reused[step.name] = decision.action
        steps.append(_planned(step, decision))
    return PlanReport(
        recipe=composition.plan.recipe,
        backend=composition.backend,
        backend_because=composition.backend_because,
        reference=composition.reference,
        variants=list(composition.variants),
        steps=steps,
    )


def _planned(step: Step, decision: Decision) -> PlannedStep:
    return PlannedStep(
        name=step.name,
        does=step.stage.sentence,
        decision="reuse" if isinstance(decision, Reuse) else "run" if isinstance(decision, Run) else "unknown",
        reason=decision.reason,
        inputs={parameter: ref.step for parameter, ref in step.inputs.items()},
        backends=dict(step.cast),
    )
