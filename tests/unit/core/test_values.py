"""Shapes, plans and recommendations: the values that everything else trusts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.report import CoverageSummary, LatencySummary, VariantReport, recommend
from trtbuild.core.tensor_file import Batches, read_tensors, write_batches, write_tensors
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.core.values import canonical_json, digest_of

SHAPES = Shapes(
    inputs={"x": TensorSpec(dtype="float32", dims=["batch", 3])}, axes={"batch": AxisRange(min=1, opt=4, max=8)}
)


def test_shapes_at_each_end_of_every_axis() -> None:
    assert [SHAPES.at(which) for which in ("min", "opt", "max")] == [{"x": (1, 3)}, {"x": (4, 3)}, {"x": (8, 3)}]


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "why"),
    [
        ("y", "float32", (4, 3), "there is no input 'y'"),
        ("x", "float64", (4, 3), "x is float64, the recipe declares float32"),
        ("x", "float32", (4,), "declares 2 dimensions"),
        ("x", "float32", (4, 2), "has shape [4, 2]"),
        ("x", "float32", (9, 3), "axis batch is 9, the recipe allows 1 to 8"),
    ],
)
def test_a_misfit_is_a_sentence(name: str, dtype: str, shape: tuple[int, ...], why: str) -> None:
    assert why in str(SHAPES.misfit(name, dtype, shape))
    assert SHAPES.misfit("x", "float32", (4, 3)) is None


def test_an_axis_out_of_order_or_undeclared_is_refused() -> None:
    with pytest.raises(ValidationError, match="min <= opt <= max"):
        AxisRange(min=4, opt=2, max=8)
    with pytest.raises(ValidationError, match="axis 'time', which axes does not declare"):
        Shapes(inputs={"x": TensorSpec(dtype="float32", dims=["time"])})


@given(some.dictionaries(some.text(), some.integers() | some.text() | some.lists(some.booleans())))
def test_equal_values_have_equal_digests_whatever_their_order(value: dict[str, object]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert digest_of(value) == digest_of(backwards)


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    artifact = QuantizationPlan(tmp_path)
    scale = np.array([0.5, 2.0], np.float32)
    smooth = ModuleQuantization("int8_sq", np.ones(3, np.float32), np.float32(4.0), scale, 1 / scale)
    Plan({"a.b": smooth, "c": ModuleQuantization("w8a16", scale)}, {"head": "asked for"}, samples=8).write(artifact)
    plan = Plan.read(artifact)
    assert (plan.kept_high, plan.samples) == ({"head": "asked for"}, 8)
    assert plan.modules["a.b"].format == "int8_sq"
    assert plan.modules["a.b"].input_amax == 4.0
    assert np.array_equal(plan.modules["a.b"].pre_quant_scale, scale)
    assert plan.modules["c"].input_amax is None
    (tmp_path / "plan.safetensors").write_bytes(b"short")
    with pytest.raises(DataError, match="not a readable tensor file"):
        Plan.read(artifact)


def test_batches_keep_their_order_names_and_scalars(tmp_path: Path) -> None:
    file = tmp_path / "batches.safetensors"
    made = [{"x": np.full((2, 2), number), "s": np.float32(number)} for number in range(12)]
    assert write_batches(file, made) == 12
    read = Batches(file)
    assert len(read) == 12
    assert [int(batch["s"]) for batch in read] == list(range(12))
    assert read[11]["s"].shape == ()
    assert [batch["x"][0, 0] for batch in read[2:4]] == [2, 3]


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    write_tensors(tmp_path / "one", {"b": np.ones(2), "a": np.zeros(2)})
    write_tensors(tmp_path / "two", {"a": np.zeros(2), "b": np.ones(2)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert set(read_tensors(tmp_path / "one")) == {"a", "b"}


def variant(name: str, ms: float, size: int, verdict: str = "passed", snr_db: float = 0.0) -> VariantReport:
    return VariantReport.model_validate(
        {
            "name": name,
            "engine": name,
            "size_bytes": size,
            "latency_ms": LatencySummary(median=ms, p95=ms, noise=0.0),
            "speedup_vs_reference": 1.0,
            "accuracy": {"snr_db": snr_db},
            "accuracy_vs_reference": {},
            "coverage": CoverageSummary(asked=0, inserted=0, ran=0),
            "verdict": verdict,
            "reasons": [],
            "reused": False,
        }
    )


@pytest.mark.parametrize(
    ("variants", "name", "why"),
    [
        ([variant("a", 10, 100), variant("b", 5, 100)], "b", "the fastest that passed"),
        ([variant("a", 10, 100), variant("b", 5, 100, "failed")], "a", "the only variant that passed"),
        ([variant("a", 10.1, 50), variant("b", 10, 100)], "a", "as fast as b within 5%, and smaller"),
        ([variant("a", 10.1, 99), variant("b", 10, 100)], "b", "the fastest that passed"),
        (
            [variant("a", 10.3, 100, snr_db=30.0), variant("b", 10, 100, snr_db=20.0)],
            "a",
            "as fast as b within 5%, and more accurate",
        ),
        ([variant("a", 11, 100, snr_db=30.0), variant("b", 10, 100, snr_db=20.0)], "b", "the fastest that passed"),
        ([variant("a", 10, 100, "failed")], None, "no variant passed its gates"),
    ],
)
def test_the_recommendation(variants: list[VariantReport], name: str | None, why: str) -> None:
    assert recommend(variants) == (name, why)
