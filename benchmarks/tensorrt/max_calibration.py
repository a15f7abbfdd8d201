"""The numbers of an INT8 quantization without torch and without ModelOpt: greatest magnitudes, seen by ONNX Runtime.

Max calibration, as ModelOpt's `INT8_DEFAULT_CFG`: weights per output channel, activations per tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.graph import document, ranges
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import output_axis, products

Tensors = dict[str, np.ndarray[Any, Any]]


def calibrate(model: Path, batches: Iterable[Tensors]) -> tuple[Plan, dict[str, float]]:
    """The plan of every product and convolution with a constant weight, and the ranges of what else is multiplied or
    added, by `<node name>:<input index>`."""
    graph = document.load(model).graph
    weighted = {
        module: nodes[0] for module, nodes in products(graph).items() if constant(nodes[0].inputs[1]) is not None
    }
    operands = {entry.key: str(entry.value.name) for entry in ranges.operands(graph)}
    read = {module: str(node.inputs[0].name) for module, node in weighted.items() if node.inputs[0] is not None}
    reached, rows = _greatest(model, sorted({*operands.values(), *read.values()}), batches)
    modules = {}
    for module, node in weighted.items():
        tensor = constant(node.inputs[1])
        assert tensor is not None
        channels = np.abs(np.moveaxis(tensor.numpy(), output_axis(node), 0)).reshape(
            tensor.shape[output_axis(node)], -1
        )
        modules[module] = ModuleQuantization("int8", channels.max(axis=1), np.float32(reached[read[module]]))
    return Plan(modules, samples=rows), {key: reached[name] for key, name in operands.items()}


def _greatest(model: Path, names: list[str], batches: Iterable[Tensors]) -> tuple[dict[str, float], int]:
    """max |x| of each tensor over all batches, and the rows seen."""
    proto = onnx.load(model)
    del proto.graph.output[:]
    for name in names:
        proto.graph.node.append(helper.make_node("Abs", [name], [f"{name}|abs"]))
        proto.graph.node.append(helper.make_node("ReduceMax", [f"{name}|abs"], [f"{name}|max"], keepdims=0))
        proto.graph.output.append(helper.make_tensor_value_info(f"{name}|max", TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    reached, rows = dict.fromkeys(names, 0.0), 0
    for batch in batches:
        rows += len(next(iter(batch.values())))
        for name, value in zip(names, session.run(None, batch), strict=True):
            reached[name] = max(reached[name], float(value))
    return reached, rows
