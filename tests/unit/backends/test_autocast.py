from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtbuild.backends.autocast import AutoCast
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError

WEIGHT = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="encoder.dense/MatMul"),
        helper.make_node("Relu", ["h"], ["y"], name="encoder.act/Relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx"
    )
    return OnnxModel(tmp_path)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_weights_are_lowered_and_names_stay(
    model: OnnxModel, precision: Literal["fp16", "bf16"], kind: int, capfd: pytest.CaptureFixture[str]
) -> None:
    AutoCast().cast(model, precision, True, model.path / "cast.onnx")
    cast = onnx.load(model.path / "cast.onnx")
    assert {tensor.data_type for tensor in cast.graph.initializer} == {kind}
    assert {"encoder.dense/MatMul", "encoder.act/Relu"} <= {node.name for node in cast.graph.node}
    assert cast.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert capfd.readouterr().out == ""


def test_the_cast_model_agrees(model: OnnxModel) -> None:
    AutoCast().cast(model, "fp16", True, model.path / "cast.onnx")
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    (got,) = onnxruntime.InferenceSession(model.path / "cast.onnx").run(None, {"x": x})
    np.testing.assert_allclose(got, np.maximum(x @ WEIGHT, 0), atol=2e-2)


def test_inputs_and_outputs_can_be_lowered_too(model: OnnxModel) -> None:
    AutoCast().cast(model, "fp16", False, model.path / "cast.onnx")
    graph = onnx.load(model.path / "cast.onnx").graph
    assert {value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]} == {TensorProto.FLOAT16}


def test_a_broken_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not onnx")
    with pytest.raises(ModelError, match="AutoCast cannot lower the graph to fp16"):
        AutoCast().cast(OnnxModel(tmp_path), "fp16", True, tmp_path / "cast.onnx")


def test_a_node_kept_in_fp32_is_that_node_alone(tmp_path: Path) -> None:
    """AutoCast takes regular expressions that match a name's beginning: `a/MatMul` must not mean `a/MatMul_1`."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="a/MatMul"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="a/MatMul_1"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])
    weights = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(WEIGHT.T.copy(), "v")]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "model.onnx")
    AutoCast().cast(OnnxModel(tmp_path), "fp16", True, tmp_path / "cast.onnx", ["a/MatMul"])
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "cast.onnx").graph.initializer}
    assert kinds == {"w": TensorProto.FLOAT, "v": TensorProto.FLOAT16}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_large_weights_are_lowered_without_being_copied(
    model: OnnxModel, precision: Literal["fp16", "bf16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same nodes, types and numbers as where AutoCast sees the weights."""
    AutoCast().cast(model, precision, True, model.path / "plain.onnx")
    monkeypatch.setattr("trtbuild.backends.autocast.LARGE_BYTES", 0)
    monkeypatch.setattr("trtbuild.graph.weights_as_inputs.LEAST_BYTES", 1)
    AutoCast().cast(model, precision, True, model.path / "large.onnx")
    assert sorted(file.name for file in model.path.iterdir()) == [
        "large.onnx", "large.onnx.data", "model.onnx", "plain.onnx",
    ]  # fmt: skip
    plain, large = (onnx.load(model.path / f"{name}.onnx") for name in ("plain", "large"))
    assert [(node.op_type, list(node.input)) for node in large.graph.node] == [
        (node.op_type, list(node.input)) for node in plain.graph.node
    ]
    assert list(large.graph.input) == list(plain.graph.input)
    (kept,) = large.graph.initializer
    (wanted,) = plain.graph.initializer
    assert (kept.name, kept.data_type, list(kept.dims)) == (wanted.name, wanted.data_type, list(wanted.dims))
    assert kept.raw_data == wanted.raw_data


def test_a_large_weight_beyond_fp16_stays_with_its_node(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = onnx.load(model.main)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT * np.float32(1e5), "w"))
    onnx.save(proto, model.main)
    monkeypatch.setattr("trtbuild.backends.autocast.LARGE_BYTES", 0)
    monkeypatch.setattr("trtbuild.graph.weights_as_inputs.LEAST_BYTES", 1)
    AutoCast().cast(model, "fp16", True, model.path / "large.onnx")
    (kept,) = onnx.load(model.path / "large.onnx").graph.initializer
    assert kept.data_type == TensorProto.FLOAT
    assert np.array_equal(numpy_helper.to_array(kept), WEIGHT * np.float32(1e5))
