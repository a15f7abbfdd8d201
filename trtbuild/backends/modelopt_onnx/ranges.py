"""What the inputs of products reach on samples, by one run of ONNX Runtime for each batch.

ModelOpt's own ranges cannot tell a NaN, which ONNX Runtime's ReduceMax may pass over, nor an input of zeros, whose
scale becomes 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.tensor_file import Tensors
from trtbuild.graph import document, initializers
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import CONVOLUTIONS, output_axis

TOTAL = "_total"
"""Behind the name of a maximum: the sum of magnitudes, which a NaN or an infinity cannot leave."""


def input_amax(model: OnnxModel, names: Collection[str], samples: Sequence[Tensors], folder: Path) -> Tensors:
    """Greatest |x| of the input of the products `names`, over all samples, by name; batches may have any shapes.

    [in] per input channel of a matrix product, [1] of a convolution. `folder` gets the graph that is run. Raises
    DataError where an input is not finite, ModelError where the graph does not run on the samples.
    """
    graph = document.load(model.main)
    values = {node.name or "": node.inputs[0] for node in graph.graph if node.name in names}
    outputs: dict[ir.Value | None, str] = {}
    for node in list(graph.graph):
        value = node.inputs[0] if node.name in names else None
        if value is not None and value not in outputs:
            outputs[value] = _reduce(graph, value, _channels(node))
    folder.mkdir(exist_ok=True)
    document.save(graph, OnnxModel(folder))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(OnnxModel(folder).main), settings, providers=["CPUExecutionProvider"])
    wanted = [f"{name}{suffix}" for suffix in ("", TOTAL) for name in outputs.values()]
    seen: Tensors = {}
    for sample in samples:
        try:
            found = session.run(wanted, sample)
        except Exception as error:
            raise ModelError(
                f"the graph does not run on the calibration samples: {str(error).splitlines()[0]}",
                hint=f"its inputs are {', '.join(value.name for value in session.get_inputs())}",
            ) from error
        for name, amax in zip(wanted, found, strict=True):
            seen[name] = np.maximum(seen.get(name, amax), amax).astype(np.float32)
    for name, value in values.items():
        if not np.isfinite(seen[outputs[value] + TOTAL]):
            raise DataError(
                f"the input of {name} holds NaN or infinity on calibration samples",
                hint="check the samples, and that the model runs in FP32 on them",
            )
    return {name: seen[outputs[value]] for name, value in values.items()}


def _channels(node: ir.Node) -> int:
    weight = constant(node.inputs[1])
    assert weight is not None
    return 1 if node.op_type in CONVOLUTIONS else int(weight.shape.numpy()[1 - output_axis(node)])


def _reduce(model: ir.Model, value: ir.Value, channels: int) -> str:
    """Add max |x| as an output, [channels] over all axes but the last, and sum |x| beside it; returns its name."""
    graph = model.graph
    name = f"{value.name}_amax"
    rows = initializers.add(graph, f"{name}.shape", np.array([-1, channels], np.int64))
    matrix, magnitude, greatest, total = (ir.Value(name=f"{name}{part}") for part in ("_rows", "_abs", "", TOTAL))
    greatest.type = total.type = ir.TensorType(value.dtype or ir.DataType.FLOAT)
    kept = ir.AttrInt64("keepdims", 0)
    attributes = [kept]
    axes = []
    if model.opset_imports.get("", 0) >= 18:
        axes = [initializers.add(graph, f"{name}.axes", np.array([0], np.int64))]
    else:
        attributes.append(ir.AttrInt64s("axes", [0]))
    steps = [
        ir.Node("", "Reshape", [value, rows], outputs=[matrix], name=f"{name}/Reshape"),
        ir.Node("", "Abs", [matrix], outputs=[magnitude], name=f"{name}/Abs"),
        ir.Node("", "ReduceMax", [magnitude, *axes], attributes, outputs=[greatest], name=f"{name}/ReduceMax"),
        ir.Node("", "ReduceL1", [magnitude], [kept], outputs=[total], name=f"{name}/ReduceL1"),
    ]
    last = value.producer()
    if last is None:
        graph.insert_before(graph[0], steps)
    else:
        graph.insert_after(last, steps)
    graph.outputs.extend([greatest, total])
    return name
