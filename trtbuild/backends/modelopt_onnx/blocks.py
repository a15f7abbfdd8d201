"""INT4 weights in blocks: rounded to nearest, or after AWQ (Lin et al. 2023).

AWQ is two of ModelOpt's searches, one after the other: `awq_lite` for the scales of input channels, `awq_clip` for the
greatest weight of each block. ModelOpt's `awq_full` does both at once, but finds clips for scales that it then averages
over the products of one tensor; MiniLM in blocks of 128 keeps a cosine of 0.970 one after the other and of 0.966 at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from trtbuild.backends.modelopt_onnx import rehearsal, silence
from trtbuild.backends.modelopt_onnx.activations import ZERO, by_node, module_amax
from trtbuild.backends.modelopt_onnx.asked import Asked
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.quantization import ModuleQuantization
from trtbuild.core.tensor_file import Tensors
from trtbuild.graph import document, reading
from trtbuild.graph.initializers import constant


def rounded(
    model: OnnxModel, asked: Asked, block_size: int, samples: Sequence[Tensors], folder: Path
) -> dict[str, ModuleQuantization]:
    """Greatest weight of each block; samples are not looked at."""
    return _numbers(_run(model, asked, block_size, samples, folder, {}, "rtn_dq"), asked)


def activation_aware(
    model: OnnxModel, asked: Asked, block_size: int, samples: Sequence[Tensors], folder: Path
) -> dict[str, ModuleQuantization]:
    """Scales of input channels, shared by products of one tensor, and the clipped greatest weight of each block."""
    channels = module_amax(model, asked, samples, folder / "ranges")
    asked.keep({module: ZERO for module, reached in channels.items() if not reached.any()})
    if not asked.nodes:
        return {}
    scaled = _run(model, asked, block_size, samples, folder, {}, "awq_lite")
    scales = _scales(scaled.graph, asked)
    clipped = _run(model, asked, block_size, samples, folder, by_node(asked, scales), "awq_clip")
    found = _numbers(clipped, asked)
    return {
        module: replace(
            numbers,
            format="int4_awq",
            pre_quant_scale=scales.get(module),
            input_channel_amax=channels[module],
        )
        for module, numbers in found.items()
    }


def _run(
    model: OnnxModel,
    asked: Asked,
    block_size: int,
    samples: Sequence[Tensors],
    folder: Path,
    scales: Tensors,
    method: str,
) -> ir.Model:
    """ModelOpt's INT4 graph, made of a copy whose products were smoothed by `scales` before."""
    graph, copy, names = document.load(model.main), OnnxModel(folder), asked.names()
    rehearsal.use_matmul(graph.graph, names)
    rehearsal.smooth(graph.graph, scales)
    rehearsal.use_rows(graph.graph, names)
    document.save(graph, copy)
    others = [node.name or "" for node in graph.graph if node.op_type in ("MatMul", "Gemm") and node.name not in names]
    quantized = silence.run(
        copy,
        samples,
        folder,
        mode="int4",
        method=method,
        block_size=block_size,
        nodes_to_exclude=silence.exactly(others),
        # One scale for the products of one tensor. There is nothing to fold it into but a Reshape, which ModelOpt does
        # not try; its folding into a norm works with CuPy only.
        awqlite_fuse_nodes=True,
    )
    return document.load(quantized)


def _scales(graph: ir.Graph, asked: Asked) -> Tensors:
    """What `awq_lite` multiplies each module's input by, [in]. A module that is called more than once has no one
    scale, and goes without."""
    owners = {names[0]: module for module, names in asked.calls().items() if len(names) == 1}
    found: Tensors = {}
    for node in graph:
        value = node.inputs[0] if node.name in owners else None
        last = None if value is None else value.producer()
        if last is not None and last.op_type == "Mul":
            tensor = constant(last.inputs[1])
            assert tensor is not None
            found[owners[node.name or ""]] = tensor.numpy().astype(np.float32).reshape(-1)
    return found


def _numbers(quantized: ir.Model, asked: Asked) -> dict[str, ModuleQuantization]:
    found = reading.read(quantized, asked.calls()).modules
    asked.keep({module: "ModelOpt left it alone" for module in asked.nodes if module not in found})
    return {module: found[module] for module in asked.nodes}
