"""The gates: what fails, and what passes with a remark."""

from __future__ import annotations

import pytest

from trtbuild.core.placement import PlacementChoice
from trtbuild.core.results import Comparison, Coverage, Latency, LayerCoverage, LayerTime, Measurement
from trtbuild.stages.judge import Gates, judge


def verdict_of(speedup: float, uncertainty: float, size_ratio: float = 1.0, **gates):
    latencies = [Latency(median_ms=ms, p95_ms=ms, min_ms=ms, noise=0.0, runs=10) for ms in (1.0, speedup)]
    measured = Measurement(
        engine=latencies[0],
        reference=latencies[1],
        uncertainty=uncertainty,
        shapes={},
        engine_bytes=round(1000 * size_ratio),
        reference_bytes=1000,
        device="",
        threads=1,
    )
    coverage = Coverage(layers=[LayerCoverage(module="a", format="int8", inserted=True, ran="int8")])
    return judge(
        comparison=Comparison(samples=1),
        measurement=measured,
        coverage=coverage,
        options=Gates(**{"pays": "faster"} | gates),
    )


def test_a_speed_up_too_close_to_the_gate_to_call_passes_with_a_remark() -> None:
    verdict = verdict_of(1.03, 0.03)
    assert verdict.outcome == "passed"
    assert verdict.remarks == [
        "1.03 x the reference's speed is known to 3.0% only: it may be less than the 1.02 x that gates.pays wants; "
        "more measure.runs would tell"
    ]


@pytest.mark.parametrize(
    ("speedup", "uncertainty", "gates"),
    [
        (1.5, 0.03, {}),
        (1.03, 0.005, {}),
        (1.03, 0.03, {"pays": "smaller", "margin": 0.0}),
        (1.03, 0.03, {"pays": "no"}),
        (1.03, 0.03, {"pays": "either", "size_ratio": 0.5}),
    ],
)
def test_no_remark_where_the_speed_up_is_clear_or_does_not_decide(speedup, uncertainty, gates) -> None:
    verdict = verdict_of(speedup, uncertainty, **gates)
    assert (verdict.outcome, verdict.remarks) == ("passed", [])


def test_a_speed_up_below_the_gate_fails_whatever_the_noise() -> None:
    verdict = verdict_of(1.01, 0.05)
    assert verdict.failed == ["pays"]
    assert verdict.remarks == []


def test_what_does_not_pay_is_told_by_placement_and_by_layer() -> None:
    latencies = [Latency(median_ms=ms, p95_ms=ms, min_ms=ms, noise=0.0, runs=10) for ms in (3.0, 2.0)]
    modules = [f"layer.{number}.{part}" for number in range(2) for part in ("query", "fc")]
    measured = Measurement(
        engine=latencies[0],
        reference=latencies[1],
        shapes={},
        engine_bytes=1000,
        reference_bytes=1000,
        device="",
        threads=1,
        engine_layers=[LayerTime(modules=[name], median_ms=1.0 if name == "layer.1.fc" else 0.5) for name in modules],
        reference_layers=[LayerTime(modules=[name], median_ms=0.5) for name in modules],
    )
    placement = PlacementChoice(kept="layers", because="layers is kept; ...", best="layers", blocks={}, tried=[])
    verdict = judge(
        comparison=Comparison(samples=1),
        measurement=measured,
        coverage=Coverage(layers=[LayerCoverage(module="a", format="int8", inserted=True, ran="int8")]),
        options=Gates(pays="faster"),
        placement=placement,
    )
    assert verdict.reasons == [
        "it does not pay: 0.67 x the reference's speed, 1.00 x its size; gates.pays wants it faster by 2%",
        "placement layers is kept; ...",
        "layer.1: 1.500 ms against 1.000 ms: layer.1.fc +0.500 ms",
    ]
