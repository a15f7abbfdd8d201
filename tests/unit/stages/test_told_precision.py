"""What an engine tells of its layers: run, missed, or untold; and what the gates make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.results import UNTOLD, Comparison, Coverage, Latency, LayerCoverage, Measurement
from trtbuild.core.roles import Compiler, Precisions
from trtbuild.core.stage import Workspace
from trtbuild.core.tensors import Shapes, TensorSpec
from trtbuild.stages.build import BuildOptions, build
from trtbuild.stages.judge import Gates, judge


class Told(Compiler):
    """A compiler that says of its engine what the test wants."""

    def __init__(self, layers: dict[str, str], attention: dict[str, str]) -> None:
        self._told = Precisions(layers, attention)

    def compile(self, model, shapes, options, engine) -> None:
        engine.main.write_text("{}")

    def precisions(self, engine) -> Precisions:
        return self._told


def coverage_of(tmp_path: Path, layers: dict[str, str], attention: dict[str, str] | None = None) -> Coverage:
    asked = [LayerCoverage(module=name.split("/")[0], format="int8", inserted=True) for name in layers]
    asked += [LayerCoverage(module=name, format="attention_int8", inserted=True) for name in attention or {}]
    return build(
        model=OnnxModel(tmp_path),
        coverage=Coverage(layers=asked),
        shapes=Shapes(inputs={"x": TensorSpec(dtype="float32", dims=[1])}),
        options=BuildOptions(),
        compiler=Told(layers, attention or {}),
        work=Workspace(tmp_path),
    ).coverage


def judged(coverage: Coverage, share: float = 1.0):
    latency = Latency(median_ms=1, p95_ms=1, min_ms=1, noise=0, runs=3)
    measured = Measurement(
        engine=latency, reference=latency, shapes={}, engine_bytes=1, reference_bytes=1, device="", threads=1
    )
    options = Gates(coverage=share, pays="no")
    return judge(comparison=Comparison(samples=1), measurement=measured, coverage=coverage, options=options)


def test_what_is_not_told_is_neither_run_nor_missed(tmp_path: Path) -> None:
    found = coverage_of(tmp_path, {"a/MatMul": "int8", "b/MatMul": UNTOLD, "c/MatMul": "float16"})
    assert (found.asked, found.ran, found.untold) == (3, 1, 1)
    assert [layer.reason[:24] for layer in found.layers] == ["", "", "the engine runs it in fl"]
    verdict = judged(found)
    assert verdict.failed == ["coverage"]
    assert "first miss: c:" in verdict.reasons[0]
    assert judged(found, 0.6).failed == []


def test_a_gate_that_passes_without_proof_says_so(tmp_path: Path) -> None:
    verdict = judged(coverage_of(tmp_path, {"a/MatMul": UNTOLD, "b/MatMul": UNTOLD}))
    assert (verdict.outcome, verdict.reasons) == ("passed", [])
    assert verdict.remarks[0].startswith(f"2 of 2 modules lie in {UNTOLD}: ")
    assert judged(Coverage()).remarks == []


@pytest.mark.parametrize(
    ("told", "untold", "missed"),
    [
        (f"int8, then {UNTOLD}", True, False),
        (f"float16, then {UNTOLD}", False, True),
        (UNTOLD, True, False),
        ("int8", False, False),
        ("int8, then float16", False, True),
    ],
)
def test_two_products_count_together(tmp_path: Path, told: str, untold: bool, missed: bool) -> None:
    (layer,) = coverage_of(tmp_path, {}, {"s/Softmax": told}).layers
    assert (layer.is_untold, bool(layer.reason)) == (untold, missed)
