"""Nodes that 16 bits break, on graphs small enough to know them by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtbuild.backends.autocast import AutoCast
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.core.artifacts import OnnxModel, Samples
from trtbuild.core.errors import ModelError
from trtbuild.core.repairs import Bisection
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import write_batches
from trtbuild.graph import document, pinning
from trtbuild.stages.bisect import BisectOptions, bisect

Node = tuple[str, str, list[str], str]
"""Name, operator, inputs, output; the inputs of a graph are `x`, its output is `y`."""

WIDTH = 8
LARGE = 3000.0
"""AutoCast tries numbers from 0 to 1; the samples here are this much larger."""


def found(folder: Path, nodes: list[Node], constants: dict[str, Any], **options: Any) -> Bisection:
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, [output], name=name) for name, operator, inputs, output in nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in constants.items()],
    )
    for name in ("model", "samples", "work"):
        (folder / name).mkdir()
    model, samples = OnnxModel(folder / "model"), Samples(folder / "samples")
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(
        onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10)), model.main
    )
    rng = np.random.default_rng(0)
    write_batches(samples.main, [{"x": (LARGE * (1 + rng.random((2, WIDTH)))).astype(np.float32)} for _ in range(3)])
    work = Workspace(folder / "work")
    return bisect(model, samples, BisectOptions(**options), AutoCast(), OnnxRuntime(), work)


OVERFLOW: list[Node] = [
    ("before/Relu", "Relu", ["x"], "a"),
    ("wide/MatMul", "MatMul", ["a", "w"], "b"),
    ("wide/Add", "Add", ["b", "bias"], "c"),
    ("damp/Mul", "Mul", ["c", "small"], "d"),
    ("after/Tanh", "Tanh", ["d"], "y"),
]
DAMPED = {"w": np.full((WIDTH, WIDTH), 5.0), "bias": np.ones(WIDTH), "small": 1e-6}


@pytest.mark.parametrize("slice_", [1, 256])
def test_an_overflow_is_pinned_with_what_reads_it(tmp_path: Path, slice_: int) -> None:
    """ONNX Runtime itself would hide this one: it keeps float32 between these operators."""
    nodes = [*OVERFLOW[:-1], ("after/Tanh", "Tanh", ["d"], "t"), ("last/LayerNorm", "Softmax", ["c"], "s")]
    nodes.append(("sum/Add", "Add", ["t", "s"], "y"))
    result = found(tmp_path, nodes, DAMPED, slice=slice_)
    (guilty,) = result.guilty
    assert (guilty.node, guilty.module, guilty.operator) == ("wide/MatMul", "wide", "MatMul")
    assert guilty.amax_fp32 == pytest.approx(5 * WIDTH * LARGE * 1.5, rel=0.2)
    assert set(result.pinned) == {"wide", "damp", "last"}
    assert result.pinned["wide"].startswith("makes up to ")
    assert result.pinned["damp"].startswith("reads up to ")
    assert (result.batches, result.broken, result.casts, result.unresolved) == (3, 3, 2, "")


def test_what_vanished_before_a_division_is_pinned_where_it_was_made(tmp_path: Path) -> None:
    """A hundred-thousandth squared is zero in FP16, and a division by it NaN."""
    nodes: list[Node] = [
        ("scale/Mul", "Mul", ["x", "factor"], "a"),
        ("square/Mul", "Mul", ["a", "a"], "b"),
        ("tiny/Mul", "Mul", ["b", "b"], "c"),
        ("ratio/Div", "Div", ["c", "c"], "y"),
    ]
    result = found(tmp_path, nodes, {"factor": 1e-6})
    assert [guilty.operator for guilty in result.guilty] == ["Div"]
    assert set(result.pinned) == {"ratio", "tiny"}
    assert result.pinned["tiny"].startswith("feeds ratio/Div")
    assert not result.unresolved


def test_infinity_that_the_model_means_is_nobodys_fault(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("mask/Add", "Add", ["x", "mask"], "a"),
        ("attention/Softmax", "Softmax", ["a"], "y"),
    ]
    mask = np.where(np.arange(WIDTH) < 4, 0.0, -np.inf)
    assert found(tmp_path, nodes, {"mask": mask}).guilty == []


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_mask_of_the_least_float_means_infinity(tmp_path: Path, everywhere: bool) -> None:
    mask = np.where(np.arange(WIDTH) < 4, 0.0, np.finfo(np.float32).min)
    nodes: list[Node] = [("mask/Add", "Add", ["x", "mask"], "a"), ("attention/Softmax", "Softmax", ["a"], "y")]
    assert found(tmp_path, nodes, {"mask": mask}, everywhere=everywhere).guilty == []


def test_what_vanished_two_steps_before_is_found_by_going_back_further(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("scale/Mul", "Mul", ["x", "factor"], "a"),
        ("again/Mul", "Mul", ["a", "factor"], "b"),
        ("square/Mul", "Mul", ["b", "b"], "c"),
        ("tiny/Mul", "Mul", ["c", "c"], "d"),
        ("ratio/Div", "Div", ["d", "d"], "y"),
    ]
    result = found(tmp_path, nodes, {"factor": 1e-4})
    assert [guilty.operator for guilty in result.guilty] == ["Div"]
    assert set(result.pinned) == {"square", "tiny", "ratio"}
    assert (result.casts, result.unresolved) == (4, "")


@pytest.mark.parametrize("everywhere", [False, True])
def test_an_overflow_that_ends_inside_counts_only_where_asked(tmp_path: Path, everywhere: bool) -> None:
    nodes: list[Node] = [
        ("square/Mul", "Mul", ["x", "x"], "a"),
        ("inverse/Reciprocal", "Reciprocal", ["a"], "y"),
    ]
    result = found(tmp_path, nodes, {}, everywhere=everywhere)
    assert [guilty.node for guilty in result.guilty] == (["square/Mul"] if everywhere else [])
    assert set(result.pinned) == ({"square", "inverse"} if everywhere else set())


def test_where_too_few_rounds_are_allowed_what_is_left_is_said(tmp_path: Path) -> None:
    result = found(tmp_path, [("square/Mul", "Mul", ["x", "x"], "y")], {}, casts=1)
    assert result.unresolved == "still not finite when the graph was lowered 1 x; the last node is square/Mul"


def test_what_the_recipe_pins_already_is_no_finding(tmp_path: Path) -> None:
    result = found(tmp_path, OVERFLOW, DAMPED, keep_fp32=["wide", "dam?"], everywhere=True)
    assert (result.pinned, result.casts) == ({}, 1)


def test_a_pattern_that_matches_nothing_is_an_error_with_close_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no node and no module matches 'wide/Matmul'") as caught:
        found(tmp_path, OVERFLOW, DAMPED, keep_fp32=["wide/Matmul"])
    assert "wide/MatMul" in caught.value.hint


def test_patterns_name_exactly_the_nodes(tmp_path: Path) -> None:
    found(tmp_path, OVERFLOW, DAMPED)
    graph = document.load(tmp_path / "model" / "model.onnx").graph
    for nodes in ({"wide/MatMul"}, {"wide/MatMul", "wide/Add"}, {"wide/Add", "damp/Mul"}):
        assert set(pinning.pinned(graph, pinning.patterns_of(graph, nodes))) == nodes
    assert pinning.patterns_of(graph, {"wide/MatMul", "wide/Add"}) == ["wide"]
    assert pinning.pinned(graph, ["*/M*"]) == ["wide/MatMul", "damp/Mul"]
