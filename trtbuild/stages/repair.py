"""The smallest set of modules to leave in high precision so that a quantized variant keeps its accuracy gates.

Modules are suspected in the order of their predicted error; whether a set suffices is never predicted but run, as
`search` does, on the samples kept for choosing formats and against gates with a margin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import ModelError
from trtbuild.core.repairs import Repair
from trtbuild.core.results import OperandRanges
from trtbuild.core.roles import Interpreter
from trtbuild.core.sensitivity import Sensitivity
from trtbuild.core.sources import MetricSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options
from trtbuild.stages.floors import tightened
from trtbuild.stages.insert import InsertOptions
from trtbuild.stages.judge import Bound
from trtbuild.stages.scoring import Score, score
from trtbuild.stages.sensitivity import read_rows
from trtbuild.stages.trial import Trial

if TYPE_CHECKING:
    from trtbuild.core.quantization import Plan


class RepairOptions(Options):
    """What the cut-down plan must reach, and how long to look for it."""

    accuracy: dict[str, Bound] = {}
    """The variant's `gates.accuracy`, against the graph in high precision."""
    margin: float = Field(default=0.1, ge=0.0, lt=1.0)
    """How much of the room between a gate and what high precision reaches stays free, for samples not seen here."""
    evaluations: int = Field(default=24, ge=2)
    """Plans to really run at most; m modules among n take about m * (log2(n) + 1)."""
    rows: int = Field(default=64, ge=1)
    """Rows of the selection samples to run each on, the first ones."""
    insert: InsertOptions = InsertOptions()
    """Where the quantization goes, as for the variant's own insertion."""


@stage(version=2)
def repair(
    model: OnnxModel,
    plan: QuantizationPlan,
    sensitivity: Sensitivity,
    selection: Samples,
    metric: MetricSource,
    ranges: OperandRanges | None,
    options: RepairOptions,
    dialect: Dialect,
    interpreter: Interpreter,
    work: Workspace,
) -> Repair:
    """Find the modules to leave in high precision.

    `sensitivity` holds the scores of this plan alone. Where no set suffices the result says why.
    """
    from trtbuild.core.culprits import OutOfReach, smallest_set
    from trtbuild.core.quantization import Plan

    whole = Plan.read(plan)
    trial = Trial(model, read_rows(selection, options.rows), ranges, options.insert, dialect, interpreter, work)
    suspects = _suspects(whole, sensitivity, trial)
    looking = _Looking(whole, trial, metric, options)
    everything = frozenset(suspects)
    unresolved = ""
    try:
        looking.floors = tightened(options.accuracy, options.margin, looking.score(everything).metrics)
        modules = smallest_set(list(suspects), looking.passes, evaluations=options.evaluations)
    except ModelError as error:  # high precision itself misses a gate
        modules, unresolved = everything, f"{error.message}; {error.hint}"
    except OutOfReach:
        missing = "; ".join(looking.score(everything).misses(looking.floors))
        modules, unresolved = everything, f"{missing}, with every module in high precision"
    return looking.found({module: suspects[module] for module in suspects if module in modules}, unresolved)


def _suspects(plan: Plan, sensitivity: Sensitivity, trial: Trial) -> dict[str, str]:
    """The modules that insertion takes, the greatest predicted error first, each with it in words."""
    inserted = plan.modules.keys() - trial.refused(plan).keys()
    errors = {
        module: max(error.output_error for error in found.errors.values())
        for module, found in sensitivity.modules.items()
        if module in inserted
    }
    ordered = sorted(errors, key=lambda module: -errors[module])
    suspects = {
        module: f"{plan.modules[module].format}: {_percent(errors[module])} predicted error of the output"
        for module in ordered
    }
    unscored = {
        module: f"{plan.modules[module].format}: its error was not predicted"
        for module in plan.modules
        if module in inserted and module not in errors
    }
    return {**suspects, **unscored}


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.2g}" if share < 1e-3 else f"{share:.1%}"


class _Looking:
    """Plans without some modules, each run once."""

    def __init__(self, plan: Plan, trial: Trial, metric: MetricSource, options: RepairOptions) -> None:
        self._plan, self._trial, self._metric, self._options = plan, trial, metric, options
        self._scores: dict[frozenset[str], Score] = {}
        self.floors: dict[str, Bound] = {}

    def passes(self, aside: frozenset[str]) -> bool:
        """Whether the plan without these modules keeps the floors."""
        return not self.score(aside).misses(self.floors)

    def score(self, aside: frozenset[str]) -> Score:
        """The metrics of the plan without these modules."""
        if aside not in self._scores:
            outputs, _ = self._trial.run(self._without(aside))
            self._scores[aside] = score(outputs, self._trial.truth, self._trial.samples, self._metric)
        return self._scores[aside]

    def _without(self, aside: frozenset[str]) -> Plan:
        return replace(
            self._plan,
            modules={module: numbers for module, numbers in self._plan.modules.items() if module not in aside},
            kept_high={**self._plan.kept_high, **dict.fromkeys(aside, "put aside for a trial")},
        )

    def found(self, modules: dict[str, str], unresolved: str) -> Repair:
        """The result, with the metrics before and after."""
        from trtbuild.core.row_limit import row_count

        return Repair(
            modules=modules,
            before=self.score(frozenset()).metrics,
            after=self.score(frozenset(modules)).metrics,
            floors={name: bound.model_dump(exclude_none=True) for name, bound in self.floors.items()},
            margin=self._options.margin,
            evaluations=len(self._scores),
            rows=row_count(self._trial.samples),
            unresolved=unresolved,
        )
