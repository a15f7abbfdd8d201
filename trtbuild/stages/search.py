"""The cheapest mix of formats that keeps the accuracy floors: `quantize.format: auto`.

Predicted errors rank, true ones decide. The multiple-choice knapsack over predicted errors gives one chain of plans,
from the cheapest to high precision everywhere; bisection along it runs the real graph a few times and finds where the
floors begin to hold. What evaluations are left go to cheaper mixes near that point, then to single modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import Format
from trtbuild.core.knapsack import Selection, cost, error, frontier, trade_offs
from trtbuild.core.results import OperandRanges
from trtbuild.core.roles import Interpreter
from trtbuild.core.sensitivity import HIGH, Evaluation, ModuleChoice, SearchReport, Sensitivity
from trtbuild.core.sources import MetricSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options
from trtbuild.stages.floors import tightened
from trtbuild.stages.insert import InsertOptions
from trtbuild.stages.judge import Bound
from trtbuild.stages.mix import Overridden, overridden, overridden_modules
from trtbuild.stages.scoring import score
from trtbuild.stages.sensitivity import read_plans, read_rows
from trtbuild.stages.trial import Trial

if TYPE_CHECKING:
    from trtbuild.core.candidates import Thing
    from trtbuild.core.quantization import Plan


class SearchOptions(Options):
    """What the mix of formats must reach, and how long to look for it."""

    accuracy: dict[str, Bound] = {}
    """The floors: bounds by metric, as in `gates.accuracy`, against the graph in high precision."""
    margin: float = Field(default=0.1, ge=0.0, lt=1.0)
    """How much of the room between a floor and what high precision reaches stays free, for samples not seen here."""
    objective: Literal["memory", "latency"] = "memory"
    """What is cheap: few bytes of weights, or little time by `relative_time`."""
    relative_time: dict[Format, float] = {}
    """For `latency`: time of a product in each format relative to high precision, where measured numbers are better
    than the built-in estimates."""
    high_bits: Literal[16, 32] = 16
    """Bits of a weight, and of a scale, in high precision."""
    evaluations: int = Field(default=12, ge=2)
    """Plans to really run at most."""
    rows: int = Field(default=64, ge=1)
    """Rows of the selection samples to run each on, the first ones."""
    overrides: dict[str, Format | Literal["high"]] = {}
    """Modules about which nothing is to be decided: their formats by pattern, `high` for high precision."""
    insert: InsertOptions = InsertOptions()
    """Where the quantization goes, as for the variant's own insertion."""


class Searched(NamedTuple):
    """The mixed plan, and how it was found."""

    plan: QuantizationPlan
    searched: SearchReport


@stage(version=3)
def search(
    model: OnnxModel,
    plans: list[QuantizationPlan],
    others: list[QuantizationPlan],
    sensitivity: Sensitivity,
    selection: Samples,
    metric: MetricSource | None,
    ranges: OperandRanges | None,
    options: SearchOptions,
    dialect: Dialect,
    interpreter: Interpreter,
    work: Workspace,
) -> Searched:
    """Choose a format for each module.

    `others` hold the numbers of the formats that overrides name.
    """
    from trtbuild.core.candidates import things
    from trtbuild.core.quantization import Plan
    from trtbuild.graph import document, inventory

    if not options.accuracy:
        raise RecipeError(
            "format auto looks for the cheapest formats that keep an accuracy, and the recipe asks for none",
            hint="set gates.accuracy, for example cosine_min: {min: 0.99}",
        )
    named = read_plans(plans)
    sources = [*named.values(), *map(Plan.read, others)]
    fixed = overridden_modules(sources, options.overrides)
    groups = inventory.together(document.load(model.main).graph)
    trial = Trial(model, read_rows(selection, options.rows), ranges, options.insert, dialect, interpreter, work)
    sensitivity = _without(_insertable(sensitivity, named, trial), fixed)
    decided = things(named, sensitivity, groups, options.objective, options.relative_time, options.high_bits)
    if not decided:
        raise RecipeError(
            "format auto has nothing to decide: "
            + "; ".join(f"{module}: {reason}" for module, reason in list(sensitivity.unscored.items())[:3]),
            hint="override or exclude less, or give the variant a format",
        )

    def override(plan: Plan) -> Plan:
        return overridden(plan, sources, fixed)

    looking = _Search(named, sensitivity, decided, trial, metric or MetricSource(), options, override)
    chosen = looking.run()
    plan = work.new(QuantizationPlan)
    looking.plan(chosen).write(plan)
    return Searched(plan, looking.report(chosen))


def _insertable(sensitivity: Sensitivity, plans: Mapping[str, Plan], trial: Trial) -> Sensitivity:
    """Without what insertion does not take: excluded modules, those that no output depends on, those not found."""
    modules, unscored = dict(sensitivity.modules), dict(sensitivity.unscored)
    for name, plan in plans.items():
        refused = trial.refused(plan)
        for module in refused.keys() & modules.keys():
            errors = {other: found for other, found in modules[module].errors.items() if other != name}
            modules[module] = modules[module].model_copy(update={"errors": errors})
            if not errors:
                del modules[module]
                unscored[module] = refused[module]
    return sensitivity.model_copy(update={"modules": modules, "unscored": unscored})


def _without(sensitivity: Sensitivity, fixed: Overridden) -> Sensitivity:
    """Without the modules that overrides decide."""
    modules = {module: found for module, found in sensitivity.modules.items() if module not in fixed}
    unscored = {module: f"overrides: {form} for {pattern!r}" for module, (pattern, form) in fixed.items()}
    return sensitivity.model_copy(update={"modules": modules, "unscored": {**sensitivity.unscored, **unscored}})


class _Search:
    def __init__(
        self,
        plans: Mapping[str, Plan],
        sensitivity: Sensitivity,
        decided: list[Thing],
        trial: Trial,
        metric: MetricSource,
        options: SearchOptions,
        override: Callable[[Plan], Plan],
    ) -> None:
        self._override = override
        self._plans, self._sensitivity, self._things = plans, sensitivity, decided
        self._trial, self._metric, self._options = trial, metric, options
        self._floors: dict[str, Bound] = {}
        self._known: dict[tuple[str, ...], Evaluation] = {}

    def run(self) -> Selection:
        """The cheapest selection found whose plan passed."""
        high: Selection = tuple(thing.options[-1] for thing in self._things)
        at_high = self._evaluate(high)
        self._floors = tightened(self._options.accuracy, self._options.margin, at_high.metrics)
        options = [thing.options for thing in self._things]
        found = self._first_that_passes([*frontier(options), high])
        # Between that one and the failing one before it lie mixes that are cheaper and off the convex line.
        limit = min((tried.predicted for tried in self._known.values() if tried.misses), default=0.0)
        between = [one for one in trade_offs(options) if cost(one) < cost(found) and error(one) < limit]
        return self._lowered(self._first_that_passes([*between, found]))

    def _first_that_passes(self, chain: list[Selection]) -> Selection:
        """By bisection, as far as the evaluations reach; the last of the chain is known to pass."""
        fails, passes = -1, len(chain) - 1
        if passes > 1 and self._left:  # often the cheapest will do
            fails, passes = (-1, 0) if self._passes(chain[0]) else (0, passes)
        while passes - fails > 1 and self._left:
            middle = (fails + passes) // 2
            if self._passes(chain[middle]):
                passes = middle
            else:
                fails = middle
        return chain[passes]

    def _lowered(self, selection: Selection) -> Selection:
        """Cheaper options for single things, the least harmful first, while evaluations are left."""
        refused: set[tuple[int, str]] = set()
        while self._left:
            moves = [
                (option.error - selection[position].error, position, option)
                for position, thing in enumerate(self._things)
                for option in thing.options
                if option.cost < selection[position].cost and (position, option.name) not in refused
            ]
            if not moves:
                break
            _, position, option = min(moves, key=lambda move: move[:2])
            trial = (*selection[:position], option, *selection[position + 1 :])
            if self._passes(trial):
                selection = trial
            else:
                refused.add((position, option.name))
        return selection

    @property
    def _left(self) -> int:
        return self._options.evaluations - len(self._known)

    def _passes(self, selection: Selection) -> bool:
        return not self._evaluate(selection).misses

    def _evaluate(self, selection: Selection) -> Evaluation:
        key = tuple(option.name for option in selection)
        if key in self._known:
            return self._known[key]
        plan = self.plan(selection)
        outputs, _ = self._trial.run(plan)
        found = score(outputs, self._trial.truth, self._trial.samples, self._metric)
        formats: Counter[str] = Counter(numbers.format for numbers in plan.modules.values())
        high = sum(module not in plan.modules for thing in self._things for module in thing.members)
        self._known[key] = Evaluation(
            formats={**formats, HIGH: high},
            cost=cost(selection),
            predicted=error(selection),
            metrics=found.metrics,
            misses=found.misses(self._floors),
        )
        return self._known[key]

    def plan(self, selection: Selection) -> Plan:
        """The plan of a selection."""
        from trtbuild.core.candidates import mixed

        chosen = {
            module: option.name
            for thing, option in zip(self._things, selection, strict=True)
            for module in thing.members
            if option.name != HIGH and module in self._plans[option.name].modules
        }
        reasons = {module: f"auto: {reason}" for module, reason in self._sensitivity.unscored.items()}
        for module, found in self._sensitivity.modules.items():
            errors = ", ".join(f"{one.output_error:.2%} in {name}" for name, one in found.errors.items())
            reasons[module] = f"auto: its predicted error of the model's output is too large: {errors}"
        return self._override(mixed(self._plans, chosen, reasons))

    def report(self, selection: Selection) -> SearchReport:
        """What was tried and chosen."""
        from trtbuild.core.row_limit import row_count

        choices: dict[str, ModuleChoice] = {}
        for thing, option in zip(self._things, selection, strict=True):
            for module in thing.members:
                found = self._sensitivity.modules[module].errors.get(option.name)
                choices[module] = ModuleChoice(
                    candidate=option.name if found else HIGH,
                    format=found.format if found else HIGH,
                    output_error=found.output_error if found else 0.0,
                    cost=thing.costs[module][option.name if found else HIGH],
                )
        return SearchReport(
            objective=self._options.objective,
            cost=cost(selection),
            cost_high=sum(thing.options[-1].cost for thing in self._things),
            choices=choices,
            evaluations=list(self._known.values()),
            floors={name: bound.model_dump(exclude_none=True) for name, bound in self._floors.items()},
            rows=row_count(self._trial.samples),
        )
