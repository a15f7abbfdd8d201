"""Is the engine right? Compared with the reference engine and with the FP32 model, on held-out samples."""

from __future__ import annotations

import math
from functools import partial

from trtbuild.core.artifacts import Engine, Outputs, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.python_entry import call_entry
from trtbuild.core.results import Comparison
from trtbuild.core.roles import Comparer, Runner
from trtbuild.core.sources import MetricSource
from trtbuild.core.stage import stage


@stage(version=2)
def validate(
    engine: Engine,
    reference: Engine,
    evaluation: Samples,
    truth: Outputs,
    metric: MetricSource,
    runner: Runner,
    comparer: Comparer,
) -> Comparison:
    """Compare the engine with its reference and the FP32 model."""
    from trtbuild.core.tensor_file import Batches  # numpy and safetensors: a plan must not load them

    samples, expected = Batches(evaluation.main), Batches(truth.main)
    if not samples:
        raise DataError("there are no evaluation samples to validate on", hint="set data.evaluation, for example 128")
    comparison, outputs, _ = comparer.compare(
        partial(runner.open, engine, threads=0), partial(runner.open, reference, threads=0), samples, expected
    )
    if metric.python is None or comparison.non_finite:
        return comparison  # of NaN a task's metric says nothing; the gates say it
    found = call_entry(metric.python, outputs, expected, samples)
    values = {str(name): float(value) for name, value in found.items()}
    if broken := [name for name, value in values.items() if not math.isfinite(value)]:
        raise DataError(f"{metric.python.entry}: metric {', '.join(broken)} is not a finite number")
    return comparison.model_copy(update={"task_metrics": values})
