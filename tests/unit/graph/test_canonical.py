"""Canonical form: the same bytes from any folder, names by module path, nothing changes the second time."""

from __future__ import annotations

import hashlib
import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import MODELS, run, sample
from trtbuild.core.artifacts import OnnxModel
from trtbuild.graph import canonical, document

torch = pytest.importorskip("torch")

SOURCE = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)
    def forward(self, x):
        return self.b(self.a(self.a(x)).reshape(x.shape[0], -1, 8))
"""


def export_from(folder):
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    torch.onnx.export(
        module.Model().eval(), (torch.ones(2, 3, 8),), folder / "raw.onnx", dynamo=True, opset_version=21,
        dynamic_shapes=({0: "batch"},), external_data=False, verbose=False,
    )  # fmt: skip
    model = document.load(folder / "raw.onnx")
    canonical.canonicalize(model)
    document.save(model, OnnxModel(folder))
    return folder / "model.onnx"


def test_two_folders_give_equal_bytes(tmp_path):
    one, other = export_from(tmp_path / "one"), export_from(tmp_path / "quite" / "another")
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()
    assert str(tmp_path).encode() not in one.read_bytes()
    names = {node.name for node in document.load(one).graph}
    assert {"a/MatMul", "a/MatMul_1", "b/LayerNormalization"} <= names


@pytest.mark.parametrize("name", list(MODELS))
def test_twice_changes_nothing(exported, tmp_path, name):
    path = exported(name)
    model = document.load(path)
    canonical.canonicalize(model)
    document.save(model, OnnxModel(tmp_path))
    assert (tmp_path / "model.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", list(MODELS))
def test_the_model_computes_what_it_did(exported, name):
    path = exported(name)
    assert (run(path, sample(name))[0] == run(path.parent / "raw.onnx", sample(name))[0]).all()


def test_names_say_the_module(exported):
    model = document.load(exported("postnorm"))
    product = next(node for node in model.graph if node.name == "attention.query/MatMul")
    assert product.inputs[1].name == "attention.query.weight"
    assert product.outputs[0].name == "attention.query/MatMul:0"
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph)


def test_a_convolution_that_took_in_a_norm_keeps_its_own_name(exported):
    names = {node.name for node in document.load(exported("cnn")).graph}
    assert {"stem/Conv", "grouped/Conv", "up/ConvTranspose", "head/Gemm"} <= names


def onnx_source():
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Mul", ["x", "k"], ["a"], name="twice"),
        helper.make_node("Add", ["a", "val_3"], ["b"], name="twice", doc_string="at /Users/me"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Neg", ["c"], ["y"], name="kept"),
    ]
    weights = [numpy_helper.from_array(np.ones(4, np.float32), name) for name in ("val_3", "unused")]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
        weights,
        value_info=[value("b", TensorProto.FLOAT, ["unk"])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("never.used", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="someone")


def test_onnx_sources_keep_unique_names_and_lose_the_rest(tmp_path):
    model = ir.from_proto(onnx_source())
    canonical.canonicalize(model)
    assert [node.name for node in model.graph] == ["Mul", "Add", "Relu", "kept"]
    assert list(model.graph.initializers) == ["k", "Add.B"]
    assert model.opset_imports == {"": 21}
    document.save(model, OnnxModel(tmp_path))
    stored = (tmp_path / "model.onnx").read_bytes()
    assert not any(word in stored for word in (b"/Users/me", b"someone", b"unk"))
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    x = np.arange(4, dtype=np.float32)
    assert (run(tmp_path / "model.onnx", x)[0] == -(2 * x + 1)).all()
