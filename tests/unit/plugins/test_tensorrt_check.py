"""The check for machines with TensorRT, as far as it goes without one: its models, its references, its names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from tests.tensorrt_api import records
from tests.tensorrt_api.usage import uses
from tests.unit.plugins.single_node import _ort_value
from trtbuild.backends.tensorrt import own_plugins
from trtbuild.graph import document
from trtbuild.plugins.kernels import operators

FILE = Path(__file__).parents[3] / "benchmarks" / "kv_cache" / "tensorrt_check.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorrt_check", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tensorrt_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("mode", ["float", "int8", "int8_static", "fp8"])
def test_its_models_compute_what_its_references_compute(check: ModuleType, mode: str, tmp_path: Path) -> None:
    layer = check.Layer(mode)
    onnx, shapes = check.model(layer, tmp_path / "onnx")
    assert set(shapes.inputs) == {*layer.new(), *layer.kept}
    session = onnxruntime.InferenceSession(str(onnx.main), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == [*(f"{name}.out" for name in layer.kept), "output"]
    layer = check.Layer(mode)
    for _ in range(2):
        new = layer.new()
        feed = {name: _ort_value(array) for name, array in {**new, **layer.kept}.items()}
        found = dict(zip(names, session.run_with_ort_values(names, feed), strict=True))
        wanted = layer.step(new)
        output = found["output"].numpy().astype(np.float64)
        assert np.linalg.norm(output - wanted) < 2e-3 * np.linalg.norm(wanted)
        for name, array in layer.kept.items():
            assert (found[f"{name}.out"].numpy().view(np.uint8) == array.view(np.uint8)).all()


def test_its_graphs_use_our_plugins(check: ModuleType, tmp_path: Path) -> None:
    onnx, _ = check.model(check.Layer("int8"), tmp_path / "onnx")
    names = own_plugins.used_in(document.load(onnx.main).graph)
    assert set(names) == {"CachedAttentionPerToken", "KVCacheAppendInt8PerToken"} & operators().keys()


def test_what_it_asks_tensorrt_for_exists_from_10_15_on() -> None:
    theirs = ("IExecutionContext", "ICudaEngine")
    asked = [use for use in uses(FILE.parent) if use.place.startswith(FILE.name) and use.owner in theirs]
    assert {"set_tensor_address", "execute_async_v3", "get_aliased_input_tensor"} <= {use.name for use in asked}
    for version in ("10.16.1.11", "11.4.0.106"):
        classes = records()[version]["classes"]
        assert all(use.name in classes[use.owner] for use in asked), version


def test_it_says_that_it_was_not_run(check: ModuleType) -> None:
    assert "not yet run" in (check.__doc__ or "")
