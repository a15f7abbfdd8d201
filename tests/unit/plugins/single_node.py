"""One operator of the cache as a model of its own, run by ONNX Runtime; and the references of `plugins/`."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from trtbuild.graph.kv_cache.operators import OPERATORS, define

Array = np.ndarray[Any, Any]

PLUGINS = Path(__file__).parents[3] / "plugins"
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
BETWEEN = ("counters", "partials")
"""Outputs that one plugin gives another, or none: no results."""


def reference(plugin: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{plugin}_reference", PLUGINS / plugin / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(operator: str, feed: dict[str, Array], outputs_like: list[Array], **attributes: Any) -> onnx.ModelProto:
    """The model; axes of batch and tokens are dynamic, the capacity is static."""
    assert len(outputs_like) == len([name for name in OPERATORS[operator].outputs if name not in BETWEEN])
    inputs = {
        role: ir.Value(name=role, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=_shape(role, array))
        for role, array in feed.items()
    }
    node = OPERATORS[operator].node("layer/node", inputs, **attributes)
    results = node.outputs[: len(outputs_like)]  # less counters and partials, which are between plugins
    for output, role, like in zip(results, OPERATORS[operator].outputs, outputs_like, strict=False):
        output.name, output.type = role, ir.TensorType(ir.DataType.from_numpy(like.dtype))
        output.shape = _shape(role, like)
    graph = ir.Graph(list(inputs.values()), results, nodes=[node], opset_imports={"": 21}, name="g")
    built = ir.Model(graph, ir_version=10)
    define(built)
    return ir.to_proto(built)


def _shape(role: str, array: Array) -> ir.Shape:
    dims: list[int | str] = list(array.shape)
    if array.ndim > 1 or role in ("lengths", "past"):
        dims[0] = "B"
    if role in ("query", "key", "value", "output"):
        dims[2] = "N"
    return ir.Shape(dims)


def run(operator: str, feed: dict[str, Array], outputs_like: list[Array], **attributes: Any) -> list[Array]:
    """What the operator's function computes, in ONNX Runtime; FP8 tensors as ml_dtypes arrays."""
    if "counters" in OPERATORS[operator].inputs:
        feed = feed | {"counters": np.zeros(1, np.int32)}
    proto = model(operator, feed, outputs_like, **attributes)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run_with_ort_values(None, {role: _ort_value(array) for role, array in feed.items()})
    return [
        value.numpy().view(FP8) if like.dtype == FP8 else value.numpy()
        for value, like in zip(found, outputs_like, strict=True)
    ]


def _ort_value(array: Array) -> onnxruntime.OrtValue:
    if array.dtype == FP8:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(np.uint8), onnx.TensorProto.FLOAT8E4M3FN
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
