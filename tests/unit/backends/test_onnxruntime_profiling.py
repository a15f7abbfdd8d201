"""Times of nodes by ONNX Runtime's profiler, told by module."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models import write_onnx
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.backends.onnxruntime.profiling import times_of
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.stages.build import BuildOptions

SHAPES = Shapes(
    inputs={"x": TensorSpec(dtype="float32", dims=["batch", 64])}, axes={"batch": AxisRange(min=1, opt=4, max=8)}
)


def test_every_module_of_an_engine_has_a_time(tmp_path) -> None:
    model, engine = OnnxModel(tmp_path / "model"), Engine(tmp_path / "engine")
    model.path.mkdir()
    engine.path.mkdir()
    write_onnx(model.main)
    backend = OnnxRuntime()
    backend.compile(model, SHAPES, BuildOptions(tactics="default"), engine)
    found = backend.layer_times(engine, {"x": np.ones((4, 64), np.float32)}, 3, 1)
    assert [layer.modules for layer in found] == [["fc0"], ["fc1"], ["fc2"]]
    assert all(layer.median_ms > 0 for layer in found)


def test_a_node_without_a_module_is_told_as_such_and_the_first_call_does_not_count() -> None:
    def event(name: str, duration_us: int) -> dict:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration_us}

    events = [
        event("a/MatMul", 9000),
        event("fused_0", 9000),
        *(each for _ in range(3) for each in (event("a/MatMul", 1000), event("fused_0", 500))),
        {"cat": "Session", "name": "model_run", "dur": 7},
    ]
    found = times_of(events, {"a/MatMul": "a", "fused_0": ""})
    assert [(layer.modules, layer.median_ms) for layer in found] == [(["a"], 1.0), ([], pytest.approx(0.5))]
