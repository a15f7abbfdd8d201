"""May the engine ship? Gates over numbers already found: other thresholds need no new run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trtbuild.core.layer_times import slower
from trtbuild.core.placement import PlacementChoice
from trtbuild.core.results import UNTOLD, Comparison, Coverage, Gate, Measurement, Verdict
from trtbuild.core.stage import stage
from trtbuild.core.values import Options, Value


class Bound(Value):
    """The range in which a number must lie."""

    min: float | None = None
    """The least value that passes."""
    max: float | None = None
    """The greatest value that passes."""


class Gates(Options):
    """What an engine must reach to ship."""

    accuracy: dict[str, Bound] = {}
    """Bounds by metric: the task metric's names, or `cosine_min`, `cosine_mean`, `snr_db`, `max_abs_error` against the
    FP32 model (the worst output counts). A decoder's are in docs/llm.md: `perplexity_ratio`, `top1_agreement`, ..."""
    coverage: float = Field(default=1.0, ge=0.0, le=1.0)
    """The share of the modules asked for that must run quantized."""
    pays: Literal["faster", "smaller", "either", "no"] = "either"
    """What a quantized engine must be, compared with the reference, to be worth shipping. A decoder's size is that of
    the engine and the cache of its greatest batch together."""
    margin: float = Field(default=0.02, ge=0.0)
    """By how much: 0.02 asks for 2 % faster or smaller."""


@stage(version=4)
def judge(
    comparison: Comparison,
    measurement: Measurement,
    coverage: Coverage,
    options: Gates,
    placement: PlacementChoice | None = None,
) -> Verdict:
    """Judge the engine by the recipe's gates."""
    accuracy = accuracy_of(comparison)
    broken = [
        f"output {name} held NaN or infinity in {batches} of {comparison.samples} batches"
        for name, batches in comparison.non_finite.items()
    ]
    missed = [reason for name, bound in options.accuracy.items() if (reason := _outside(name, accuracy, bound))]
    speedup = measurement.speedup
    size_ratio = measurement.size_ratio
    reasons: dict[Gate, list[str]] = {
        "finite": broken,
        "accuracy": [] if broken else missed,  # of outputs that are not finite nothing else was measured
        "coverage": _uncovered(coverage, options),
        "pays": _wasted(coverage, options, measurement, size_ratio, placement),
    }
    failed = [gate for gate, words in reasons.items() if words]
    return Verdict(
        outcome="failed" if failed else "passed",
        failed=failed,
        reasons=[reason for words in reasons.values() for reason in words],
        remarks=[*_unproven(coverage), *_close(measurement, coverage, options, size_ratio)],
        accuracy=accuracy,
        speedup=round(speedup, 3),
        size_ratio=round(size_ratio, 4),
    )


def accuracy_of(comparison: Comparison) -> dict[str, float]:
    """Every accuracy metric by name: the task's own, then the worst output's agreement with the FP32 model."""
    found = comparison.against_model.values()
    general = (
        {
            "cosine_mean": min(output.cosine_mean for output in found),
            "cosine_min": min(output.cosine_min for output in found),
            "snr_db": min(output.snr_db for output in found),
            "max_abs_error": max(output.max_abs_error for output in found),
        }
        if found
        else {}
    )
    return {**comparison.task_metrics, **general}


def _uncovered(coverage: Coverage, options: Gates) -> list[str]:
    if not coverage.asked or coverage.ran + coverage.untold >= options.coverage * coverage.asked:
        return []
    return [
        f"{coverage.ran} of {coverage.asked} modules run quantized, {options.coverage:.0%} are wanted; first miss: "
        + next(f"{layer.module}: {layer.reason}" for layer in coverage.layers if layer.reason)
    ]


def _unproven(coverage: Coverage) -> list[str]:
    """What the engine does not tell is no miss, and no proof either: only its speed shows it."""
    if not coverage.untold:
        return []
    return [
        f"{coverage.untold} of {coverage.asked} modules lie in {UNTOLD}: they count neither as run nor as missed, "
        "only size and speed show what they became"
    ]


def _close(measurement: Measurement, coverage: Coverage, options: Gates, size_ratio: float) -> list[str]:
    """A speed-up that timing cannot tell from the least that pays, where speed alone decides."""
    speedup, least = measurement.speedup, 1 + options.margin
    by_size = options.pays == "either" and size_ratio <= 1 - options.margin
    if not coverage.asked or options.pays in ("smaller", "no") or by_size:
        return []
    if not speedup * (1 - measurement.uncertainty) < least <= speedup:
        return []
    return [
        f"{speedup:.2f} x the reference's speed is known to {measurement.uncertainty:.1%} only: it may be less than "
        f"the {least:.2f} x that gates.pays wants; more measure.runs would tell"
    ]


def _wasted(
    coverage: Coverage,
    options: Gates,
    measurement: Measurement,
    size_ratio: float,
    placement: PlacementChoice | None,
) -> list[str]:
    speedup = measurement.speedup
    faster, smaller = speedup >= 1 + options.margin, size_ratio <= 1 - options.margin
    pays = {"faster": faster, "smaller": smaller, "either": faster or smaller, "no": True}[options.pays]
    if not coverage.asked or pays:
        return []
    wanted = {"faster": "faster", "smaller": "smaller", "either": "faster or smaller"}[options.pays]
    return [
        f"it does not pay: {speedup:.2f} x the reference's speed, {size_ratio:.2f} x its size; "
        f"gates.pays wants it {wanted} by {options.margin:.0%}",
        *([] if placement is None else [f"placement {placement.because}"]),
        *([] if faster else slower(measurement.engine_layers, measurement.reference_layers)),
    ]


def _outside(name: str, accuracy: dict[str, float], bound: Bound) -> str | None:
    if name not in accuracy:
        return f"gates.accuracy asks for {name}, which nothing measured; there are: {', '.join(accuracy) or 'none'}"
    value = accuracy[name]
    if bound.min is not None and not value >= bound.min:
        return f"{name} is {value:.5g}, at least {bound.min:g} is wanted"
    if bound.max is not None and not value <= bound.max:
        return f"{name} is {value:.5g}, at most {bound.max:g} is wanted"
    return None
