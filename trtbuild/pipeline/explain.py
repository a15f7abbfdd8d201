"""What a build would do, and why, without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtbuild.core.report import PlannedStep, PlanReport
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.decide import Decision, Reuse, Run, Unknown, decide
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.job import require_backend
from trtbuild.pipeline.plan import Plan, Step
from trtbuild.pipeline.store import Action, Store
from trtbuild.recipe import expand
from trtbuild.recipe.load import load


def explain(recipe: str | Path, *, sets: Sequence[str] = (), variants: Sequence[str] = (), store: Path) -> PlanReport:
    """Decide every step as far as that is known before running, by the same `decide` that `build` asks."""
    loaded = load(recipe, sets, variants)
    opened = Store(store)
    composition = compose(loaded, variants, elsewhere=opened.has_imported)
    resolved = expand.variants(loaded.recipe)
    foreseen = foresee(composition.plan, opened, FileDigests(store / "digests.sqlite"))
    return PlanReport(
        recipe=composition.plan.recipe,
        backend=composition.backend,
        backend_because=composition.backend_because,
        reference=composition.reference,
        variants=list(composition.variants),
        approximates={name: told for name in composition.variants if (told := resolved[name].approximates)},
        steps=[_planned(step, decision) for step, decision in foreseen],
    )


def foresee(plan: Plan, store: Store, files: FileDigests) -> list[tuple[Step, Decision]]:
    """Each step's decision, as far as it is known before anything runs."""
    foreseen: list[tuple[Step, Decision]] = []
    reused: dict[str, Action] = {}
    for step in plan:
        pending = tuple(dict.fromkeys(ref.step for ref in step.inputs.values() if ref.step not in reused))
        decision: Decision = Unknown(pending)
        if not pending:
            digests = {parameter: reused[ref.step].outputs[ref.output].digest for parameter, ref in step.inputs.items()}
            decision = decide(step, digests, plan.recipe, store, files)
        if isinstance(decision, Reuse):
            reused[step.name] = decision.action
        foreseen.append((step, decision))
    return foreseen


def require_backends(plan: Plan, store: Store, files: FileDigests) -> None:
    """Raise BackendMissing before anything slow starts, where a step that may have to run lacks a backend."""
    for step, decision in foresee(plan, store, files):
        if not isinstance(decision, Reuse):
            for name in step.cast.values():
                require_backend(name)


def _planned(step: Step, decision: Decision) -> PlannedStep:
    return PlannedStep(
        name=step.name,
        does=step.stage.sentence,
        decision="reuse" if isinstance(decision, Reuse) else "run" if isinstance(decision, Run) else "unknown",
        reason=decision.reason,
        inputs={parameter: ref.step for parameter, ref in step.inputs.items()},
        backends=dict(step.cast),
    )
