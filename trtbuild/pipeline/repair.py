"""Build a recipe, and repair what fails: pin to FP32 what 16 bits break, un-quantize what costs too much accuracy.

A repair is a decision in the recipe's own words, `keep_fp32` and `quantize.overrides`. It is built and judged as any
recipe is, from a store that holds everything it does not touch, and handed over as a patch of the recipe.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from trtbuild.core.errors import RecipeError
from trtbuild.core.events import Listener
from trtbuild.core.repairs import Bisection, GuiltyNode, Repair
from trtbuild.core.report import BuildReport, RepairReport, VariantReport
from trtbuild.pipeline.build import build, write_report
from trtbuild.pipeline.explain import require_backends
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.job import RESULT_FILE
from trtbuild.pipeline.repair_patch import PATCH_FILE, Decision, additions, as_sets, patched
from trtbuild.pipeline.repair_steps import Search, accuracy_repair, bisection, dialect_for, in_fp16
from trtbuild.pipeline.run import Finished, Limits, walk
from trtbuild.pipeline.store import Store
from trtbuild.recipe.expand import Variant
from trtbuild.recipe.expand import variants as expanded
from trtbuild.recipe.load import LoadedRecipe, load

ROUNDS = 3
MARGINS = (0.1, 0.3, 0.6)
"""The share of the room above a gate that stays free, in turn: samples for choosing are not those that judge."""


@dataclass
class _Case:
    """One variant that failed, and what was decided for it so far."""

    variant: Variant
    """As the recipe has it."""
    first: VariantReport
    in_fp16: bool
    """Whether what it does not quantize runs in FP16."""
    keep_fp32: dict[str, str] = field(default_factory=dict)
    high: dict[str, str] = field(default_factory=dict)
    guilty: list[GuiltyNode] = field(default_factory=list)
    evaluations: int = 0
    bisected: bool = False
    margins: Iterator[float] = field(default_factory=lambda: iter(MARGINS))
    hopeless: str = ""
    """Why nothing more is tried."""

    @property
    def decision(self) -> Decision:
        """What the recipe should say."""
        return Decision(self.variant, self.keep_fp32, self.high)


def build_and_repair(
    recipe: str | Path,
    *,
    sets: Sequence[str] = (),
    variants: Sequence[str] = (),
    store: Path,
    output: Path = Path("engines"),
    listener: Listener | None = None,
    limits: Limits | None = None,
    write: bool = False,
) -> BuildReport:
    """Build as `build` does, repair variants that fail, and write the repairs that hold as `repair.patch`.

    With `write` the recipe itself is changed as well. Raises any TrtbuildError.
    """
    began = time.perf_counter()
    listener, limits = listener or Listener(), limits or Limits()
    walked = _Walked(store, listener, limits)
    cases: dict[str, _Case] = {}

    def decided() -> list[str]:
        return as_sets(original, additions(original, [case.decision for case in cases.values()]))

    def built(more: Sequence[str]) -> BuildReport:
        report = build(
            recipe,
            sets=[*sets, *more],
            variants=variants,
            store=store,
            output=output,
            listener=listener,
            limits=limits,
        )
        walked.ran, walked.reused = walked.ran + report.steps_run, walked.reused + report.steps_reused
        return report

    original = load(recipe, sets, variants)
    if original.recipe.decoder is not None:
        raise RecipeError(
            "--repair is not for decoders: it runs the graph on whole samples, which have no cache",
            hint="leave layers out by quantize.exclude and kv_cache.exclude, or nodes in FP32 by keep_fp32",
        )
    report = built([])
    known, dialect = expanded(original.recipe), dialect_for(original)
    for _ in range(ROUNDS):
        for failing in report.variants:
            if failing.verdict == "failed":
                variant = known[failing.name]
                cases.setdefault(failing.name, _Case(variant, failing, in_fp16(variant, dialect)))
        before = decided()
        for failing in report.variants:
            if failing.verdict == "failed" and not cases[failing.name].hopeless:
                _decide(cases[failing.name], failing, original, sets, walked)
        if decided() == before:
            break
        report = built(decided())
    held = [case.decision for case in cases.values() if _outcome(case, report) == "repaired"]
    added = additions(original, held)
    (output / original.recipe.recipe / PATCH_FILE).unlink(missing_ok=True)  # an earlier build's
    report = report.model_copy(
        update={
            "repairs": [_repair(case, report) for case in cases.values()],
            "patch": patched(original, added, output, write=write) if added else None,
            "steps_run": walked.ran,
            "steps_reused": walked.reused,
            "elapsed_s": round(time.perf_counter() - began, 3),
        }
    )
    write_report(report, output)
    return report


@dataclass
class _Walked:
    """Runs searches, and counts what all walks together did."""

    store: Path
    listener: Listener
    limits: Limits
    ran: int = 0
    reused: int = 0

    def result(self, search: Search) -> Any:
        """Bring a search to its end."""
        store, files = Store(self.store), FileDigests(self.store / "digests.sqlite")
        require_backends(search.plan, store, files)
        with store.leased():
            done: Finished = walk(search.plan, store, files, self.listener, self.limits)
            self.ran, self.reused = self.ran + len(done.ran), self.reused + len(done.actions) - len(done.ran)
            folder = store.folder_of(done.actions[search.result.step].outputs[search.result.output].digest)
            return search.kind.model_validate_json((folder / RESULT_FILE).read_bytes())


def _decide(
    case: _Case,
    failing: VariantReport,
    original: LoadedRecipe,
    sets: Sequence[str],
    walked: _Walked,
) -> None:
    """Look into one failing variant, and add what is found to its case."""
    variant = case.variant
    if not {"finite", "accuracy"} & {*failing.failed}:
        case.hopeless = _CANNOT[failing.failed[0]]
        return
    broken = "finite" in failing.failed
    if case.in_fp16 and not case.bisected and (broken or variant.quantize is None):
        case.bisected = True
        found: Bisection = walked.result(bisection(original, variant, failing.failed))
        case.guilty, case.evaluations = found.guilty, case.evaluations + found.casts
        if found.pinned:
            case.keep_fp32 = found.pinned
            case.hopeless = found.unresolved
            return
    if variant.quantize is None:
        case.hopeless = _not_pinned(case, broken=broken)
        return
    # What was pinned stays; the modules are chosen anew, from the whole plan and with more room.
    pins = additions(original, [Decision(variant, case.keep_fp32, {})])
    loaded = load(original.file, [*sets, *as_sets(original, pins)], [variant.name])
    for margin in case.margins:
        cut: Repair = walked.result(accuracy_repair(loaded, expanded(loaded.recipe)[variant.name], margin))
        case.evaluations += cut.evaluations
        if cut.unresolved:
            case.hopeless = cut.unresolved
            return
        if clash := _clash(variant, cut.modules):
            case.hopeless = clash
            return
        if cut.modules.keys() != case.high.keys():
            case.high = cut.modules
            return
    case.hopeless = "more modules in high precision do not help on the samples that choose them"


_CANNOT = {
    "coverage": "repair changes precisions; that modules do not run quantized is decided by the backend: exclude them, "
    "or lower gates.coverage",
    "pays": "repair takes quantization away, which makes an engine neither faster nor smaller: choose another format, "
    "or relax gates.pays",
}


def _not_pinned(case: _Case, *, broken: bool) -> str:
    if not case.in_fp16:
        what = "holds NaN or infinity" if broken else "misses its accuracy"
        return f"nothing is quantized or in FP16, and it {what} all the same"
    if case.keep_fp32:
        return "with every overflow pinned to FP32 it still fails"
    return "no node overflows in FP16, so the loss is rounding: try precision bf16 or fp32, or relax the gate"


def _clash(variant: Variant, modules: Mapping[str, str]) -> str:
    """Why the variant's own overrides leave no room for more."""
    assert variant.quantize is not None
    for pattern, form in variant.quantize.overrides.items():
        for module in modules:
            if pattern.startswith("class:") or fnmatchcase(module, pattern):
                return f"overrides has {pattern!r} as {form}, and {module} should be high: narrow that pattern"
    return ""


def _outcome(case: _Case, report: BuildReport) -> Literal["repaired", "failed", "impossible"]:
    last = next(variant for variant in report.variants if variant.name == case.variant.name)
    if last.verdict == "passed":
        return "repaired"
    return "failed" if case.keep_fp32 or case.high else "impossible"


def _repair(case: _Case, report: BuildReport) -> RepairReport:
    last = next(variant for variant in report.variants if variant.name == case.variant.name)
    outcome = _outcome(case, report)
    parts = []
    if case.keep_fp32:
        parts.append(f"{', '.join(case.keep_fp32)} pinned to FP32")
    if case.high:
        parts.append(f"{', '.join(case.high)} left in high precision")
    done = " and ".join(parts)
    because = {
        "repaired": done or "it passes beside the repaired reference, without a change of its own",
        "failed": f"{case.hopeless or '; '.join(last.reasons)} ({done})",
        "impossible": case.hopeless,
    }[outcome]
    return RepairReport(
        variant=case.variant.name,
        outcome=outcome,
        because=because,
        reasons=case.first.reasons,
        keep_fp32=case.keep_fp32,
        guilty=case.guilty,
        high=case.high,
        accuracy_before=case.first.accuracy,
        accuracy_after=last.accuracy,
        evaluations=case.evaluations,
    )
