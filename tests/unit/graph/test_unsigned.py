"""UINT8 around 128 computes what INT8 around 0 computes, and lets ONNX Runtime keep every product in integers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.unit.graph.examples import make_plan, run_model, sample
from trtbuild.core.artifacts import OnnxModel
from trtbuild.graph import document, insertion
from trtbuild.graph.unsigned import use_unsigned_activations

pytest.importorskip("torch")


def quantized(exported):
    path = exported("postnorm")
    model = document.load(path)
    insertion.insert(model, make_plan(path, sample("postnorm"), "int8"), embeddings="high", exclude=[])
    return model


def products_after_fusion(model, folder):
    folder.mkdir()
    document.save(model, OnnxModel(folder))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "fused.onnx").graph.node)


def test_the_same_numbers(exported, tmp_path):
    signed, unsigned = quantized(exported), quantized(exported)
    assert use_unsigned_activations(unsigned) == 4
    x = sample("postnorm")
    (tmp_path / "s").mkdir()
    (tmp_path / "u").mkdir()
    assert np.array_equal(run_model(signed, x, tmp_path / "s"), run_model(unsigned, x, tmp_path / "u"))


def test_every_product_is_an_integer_product(exported, tmp_path):
    model = quantized(exported)
    use_unsigned_activations(model)
    assert products_after_fusion(model, tmp_path / "fused")["MatMulIntegerToFloat"] == 6


def test_a_graph_without_quantizers_is_left_alone(exported):
    assert use_unsigned_activations(document.load(exported("postnorm"))) == 0
