"""The steps of `engine.placement: auto`: an engine for each placement, the choice among them, the mixture, the last
word. Insertions need no GPU and no search; all behind them runs where the engines are built."""

from __future__ import annotations

from trtbuild.core.dialects import Dialect
from trtbuild.core.placement import PLACEMENTS
from trtbuild.pipeline.plan import Ref
from trtbuild.pipeline.quantization_steps import QuantizationSteps
from trtbuild.pipeline.shared_steps import SharedSteps
from trtbuild.recipe.expand import Variant
from trtbuild.recipe.schema import QuantizeOptions
from trtbuild.stages.attempt import attempt
from trtbuild.stages.build import BuildOptions, build
from trtbuild.stages.contest import PlaceOptions
from trtbuild.stages.insert import insert, insert_placed
from trtbuild.stages.keep import keep
from trtbuild.stages.place import place


class PlacementSteps:
    """Adds the search of one variant to the plan."""

    def __init__(self, shared: SharedSteps, quantization: QuantizationSteps, backend: str, dialect: Dialect) -> None:
        self._shared, self._quantization, self._backend, self._dialect = shared, quantization, backend, dialect

    def built(
        self, name: str, variant: Variant, model: Ref, quantize: QuantizeOptions, options: BuildOptions
    ) -> tuple[Ref, Ref, Ref]:
        """The steps that end in the engine of the placement that is kept, its coverage, and why it is kept."""
        plan, shared = self._shared.plan, self._shared
        numbers = self._quantization.plan(name, variant, quantize)
        attempts = []
        for placement in PLACEMENTS:
            asked = quantize.placed(placement)
            inserted = plan.add(
                f"{name}/insert-{placement}",
                insert,
                model=model,
                plan=numbers,
                ranges=self._quantization.ranges(asked),
                options=asked.insert,
                dialect=self._dialect,
            )
            attempts.append(
                plan.add(
                    f"{name}/attempt-{placement}",
                    attempt,
                    model=inserted["model"],
                    coverage=inserted["coverage"],
                    shapes=shared.recipe.shapes,
                    options=options,
                    compiler=self._backend,
                )
            )
        unquantized = plan.add(
            f"{name}/build-high",
            build,
            model=model,
            coverage=None,
            shapes=shared.recipe.shapes,
            options=options,
            compiler=self._backend,
        )["engine"]
        wanted = PlaceOptions(
            placements=list(PLACEMENTS),
            accuracy=variant.gates.accuracy,
            high=variant.gates.pays in ("faster", "either"),
            measure=variant.measure,
        )
        choice = plan.add(
            f"{name}/place",
            place,
            engines=[step["engine"] for step in attempts],
            attempts=[step["attempt"] for step in attempts],
            unquantized=unquantized,
            calibration=shared.calibration,
            metric=shared.metric,
            shapes=shared.recipe.shapes,
            options=wanted,
            runner=self._backend,
        )["placementchoice"]
        most = quantize.placed(PLACEMENTS[-1])
        mixed = plan.add(
            f"{name}/insert-mixed",
            insert_placed,
            model=model,
            plan=numbers,
            ranges=self._quantization.ranges(most),
            placement=choice,
            options=most.insert,
            dialect=self._dialect,
        )
        mixture = plan.add(
            f"{name}/attempt-mixed",
            attempt,
            model=mixed["model"],
            coverage=mixed["coverage"],
            shapes=shared.recipe.shapes,
            options=options,
            compiler=self._backend,
        )
        kept = plan.add(
            f"{name}/keep",
            keep,
            engines=[step["engine"] for step in attempts],
            coverages=[step["coverage"] for step in attempts],
            mixture=mixture["engine"],
            mixture_coverage=mixture["coverage"],
            mixture_attempt=mixture["attempt"],
            placement=choice,
            unquantized=unquantized,
            calibration=shared.calibration,
            metric=shared.metric,
            shapes=shared.recipe.shapes,
            options=wanted,
            runner=self._backend,
        )
        return kept["engine"], kept["coverage"], kept["placement"]
