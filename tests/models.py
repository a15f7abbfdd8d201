"""Tiny models and recipes, made when a test needs them, never stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GENERATOR = '''
import numpy as np

def samples(split, count, scale=1.0):
    """Normal rows, four a batch; the splits differ by seed."""
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 4):
        yield {"x": (scale * rng.standard_normal((4, 64))).astype(np.float32)}
'''

RECIPE = """\
recipe: tiny
description: Three linear layers with ReLU, taken in as ONNX
model: {onnx: model.onnx}
shapes:
  axes: {batch: {min: 1, opt: 4, max: 8}}
  inputs:
    x: {dtype: float32, dims: [batch, 64]}
data: {generator: "generator:samples", calibration: 8, evaluation: 8}
engine: {tactics: default}
measure: {runs: 3, warm_up: 1}
reference: fp32
gates: {accuracy: {cosine_min: {min: 0.999}}}
variants:
  fp32: {precision: fp32}
"""


def write_onnx(path: Path, *, layers: int = 3, width: int = 64, seed: int = 0, nan: bool = False) -> Path:
    """A chain of MatMul and Relu with a dynamic batch axis."""
    rng = np.random.default_rng(seed)
    weights = [(rng.standard_normal((width, width)) * width**-0.5).astype(np.float32) for _ in range(layers)]
    if nan:
        weights[-1][0, 0] = np.nan
    nodes, value = [], "x"
    for index in range(layers):
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}"], name=f"fc{index}/MatMul"))
        nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"], name=f"fc{index}/Relu"))
        value = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def write_tiny_recipe(folder: Path, *, recipe: str = RECIPE) -> Path:
    """A complete recipe folder on an ONNX file; builds in a few seconds and needs no PyTorch."""
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder / "model.onnx")
    (folder / "generator.py").write_text(GENERATOR)
    (folder / "recipe.yaml").write_text(recipe)
    return folder
