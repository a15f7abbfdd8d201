"""Engines against the one without quantization: do they give the same, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.placement import HIGH, Choice, Placement, Tried
from trtbuild.core.results import LayerTime
from trtbuild.core.roles import Runner
from trtbuild.core.sources import MetricSource
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options
from trtbuild.stages.attempt import Attempt
from trtbuild.stages.judge import Bound
from trtbuild.stages.measure import PROFILED, MeasureOptions, at_opt, latency, time_in_turns
from trtbuild.stages.scoring import score
from trtbuild.stages.sensitivity import read_rows

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Tensors

SANE = {"cosine_mean": Bound(min=0.9)}
"""What outputs must reach where the recipe asks for nothing: less is no rounding."""


class PlaceOptions(Options):
    """What to try, and what an engine must reach to be kept."""

    placements: list[Placement]
    """The placements, in the order of the engines."""
    accuracy: dict[str, Bound] = {}
    """Bounds by metric, as in `gates.accuracy`; here against the engine without quantization."""
    high: bool = True
    """Whether a block may stay in high precision where that is fastest."""
    rows: int = Field(default=64, ge=1)
    """Rows of the calibration samples to compare outputs on: what is chosen must not be judged on the same."""
    measure: MeasureOptions = MeasureOptions()
    """How engines are timed."""


class Contest:
    """Compares and times engines, two at a time: more may not fit."""

    def __init__(
        self,
        runner: Runner,
        unquantized: Engine,
        calibration: Samples,
        metric: MetricSource,
        shapes: Shapes,
        options: PlaceOptions,
    ) -> None:
        """Raises DataError where there are no samples."""
        self._runner, self._unquantized, self._metric, self._options = runner, unquantized, metric, options
        self._samples = read_rows(calibration, options.rows)
        if not self._samples:
            raise DataError(
                "engine.placement: auto compares engines on calibration samples, and there are none",
                hint="set data.calibration, for example 256",
            )
        self._inputs = at_opt(self._samples[0], shapes)
        self._truth = self._outputs(unquantized)

    def unquantized(self) -> Tried:
        """The engine without quantization, timed alone."""
        (times_ms,) = self._timed([self._unquantized])
        return Tried(placement=HIGH, median_ms=latency(times_ms).median_ms, speedup=1.0)

    def tried(self, engine: Engine, attempt: Attempt, placement: Choice) -> Tried:
        """One engine, compared and timed; refused where there is none or its outputs are wrong."""
        if attempt.failure:
            return Tried(placement=placement, refused=f"does not build: {attempt.failure}")
        found = score(self._outputs(engine), self._truth, self._samples, self._metric)
        floors = {name: bound for name, bound in self._options.accuracy.items() if name in found.metrics} or SANE
        if misses := found.misses(floors):
            return Tried(placement=placement, accuracy=found.metrics, refused=f"is wrong: {'; '.join(misses)}")
        import numpy as np  # a plan must not load it

        ours, theirs = self._timed([engine, self._unquantized])
        # Call by call, since what disturbs the machine for a while disturbs both.
        speedup = float(np.median(np.divide(theirs, ours)))
        return Tried(
            placement=placement,
            median_ms=latency(ours).median_ms,
            speedup=round(speedup, 4),
            accuracy=found.metrics,
        )

    def layer_times(self, engine: Engine) -> list[LayerTime]:
        """The time of each layer of an engine."""
        return self._runner.layer_times(engine, self._inputs, PROFILED, self._options.measure.threads)

    def _timed(self, engines: list[Engine]) -> list[list[float]]:
        sessions = [self._runner.open(engine, self._options.measure.threads) for engine in engines]
        try:
            return time_in_turns(sessions, self._inputs, self._options.measure)
        finally:
            for session in sessions:
                session.close()

    def _outputs(self, engine: Engine) -> list[Tensors]:
        session = self._runner.open(engine, self._options.measure.threads)
        try:
            return [session.infer(batch) for batch in self._samples]
        finally:
            session.close()
