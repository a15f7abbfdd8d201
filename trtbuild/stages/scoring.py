"""What a trial's outputs are worth: every accuracy metric that a gate may bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from trtbuild.core.errors import DataError
from trtbuild.core.python_entry import call_entry
from trtbuild.core.sources import MetricSource
from trtbuild.stages.floors import missed
from trtbuild.stages.judge import Bound, accuracy_of

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Tensors


class Score(NamedTuple):
    """Metrics of one run; none of them where an output is not finite."""

    metrics: dict[str, float]
    broken: list[str]
    """The outputs that hold NaN or infinity, in words."""

    def misses(self, floors: Mapping[str, Bound]) -> list[str]:
        """What is outside the bounds, in words."""
        if self.broken:
            return self.broken
        verdicts = (missed(name, self.metrics[name], bound) for name, bound in floors.items())
        return [verdict for verdict in verdicts if verdict]


def score(
    outputs: Sequence[Tensors], truth: Sequence[Tensors], samples: Sequence[Tensors], metric: MetricSource
) -> Score:
    """Compare outputs with the truth, by the task's own metric too. Raises DataError where that is not finite."""
    from trtbuild.core.agreement import compare

    comparison = compare(outputs, truth)
    broken = [f"output {name} holds NaN or infinity" for name in comparison.non_finite]
    if metric.python is not None and not broken:
        found = call_entry(metric.python, outputs, truth, samples)
        values = {str(name): float(value) for name, value in found.items()}
        if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
            raise DataError(f"{metric.python.entry}: metric {', '.join(wrong)} is not a finite number")
        comparison = comparison.model_copy(update={"task_metrics": values})
    return Score(accuracy_of(comparison), broken)
