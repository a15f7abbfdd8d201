"""Linear modules of a graph: the matrix products with a constant weight, found by module path."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtbuild.core.quantization import ModuleQuantization
from trtbuild.core.tensor_file import Array
from trtbuild.graph.initializers import FLOATS, constant

_PRODUCT = re.compile(r"(?P<module>.+)/(?:MatMul|Gemm)(?:_\d+)?")


def products(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """MatMul and Gemm nodes by module path, in graph order."""
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        if node.op_type in ("MatMul", "Gemm") and (match := _PRODUCT.fullmatch(node.name or "")):
            found.setdefault(match["module"], []).append(node)
    return found


def output_axis(node: ir.Node) -> int:
    """The weight's axis of output channels: 1 for W [in, out], 0 for a Gemm with transB and W [out, in]."""
    return 0 if node.op_type == "Gemm" and _flag(node, "transB") else 1


def along_output(node: ir.Node, factor: Array) -> Array:
    """`factor` [out], shaped to broadcast against this node's weight."""
    return factor if output_axis(node) == 1 else factor[:, None]


@dataclass
class Linear:
    """One module to quantize: its nodes, its weight, and its numbers as smoothing moves scales about."""

    module: str
    numbers: ModuleQuantization
    nodes: list[ir.Node]
    """Its matrix products, one for each call of the module, all with the same weight."""
    weight: ir.Value
    axis: int
    """The weight's axis of output channels."""
    weight_amax: Array
    """[out] float32, after `divisor`, before `factor`."""
    input_amax: float | None
    divisor: Array | None = None
    """[in] float32: input channels of the weight are divided by it (SmoothQuant's 1/s)."""
    factor: Array | None = None
    """[out] float32: output channels are multiplied by it, for a consumer's scale folded in here."""

    def smoothed(self) -> Array:
        """The weight [out, in] in float32, input channels divided."""
        tensor = constant(self.weight)
        assert tensor is not None
        matrix = tensor.numpy().astype(np.float32)
        matrix = matrix if self.axis == 0 else matrix.T
        return matrix if self.divisor is None else matrix / self.divisor

    def scaled(self) -> tuple[Array, Array]:
        """The weight [out, in] that the graph computes with, and its greatest magnitude [out], both float32."""
        matrix, amax = self.smoothed(), self.weight_amax
        if self.factor is not None:
            matrix, amax = matrix * self.factor[:, None], amax * np.abs(self.factor)
        return matrix, amax


def linear(module: str, numbers: ModuleQuantization, nodes: list[ir.Node]) -> Linear | str:
    """The module as something to quantize, or in words why it cannot be."""
    if (reason := _unfit_nodes(nodes) or _unfit_numbers(numbers, nodes[0])) is not None:
        return reason
    weight, axis = nodes[0].inputs[1], output_axis(nodes[0])
    assert weight is not None
    assert weight.shape is not None
    amax = np.asarray(numbers.weight_amax, np.float32).reshape(-1)
    scale = numbers.pre_quant_scale
    return Linear(
        module=module,
        numbers=numbers,
        nodes=nodes,
        weight=weight,
        axis=axis,
        weight_amax=np.broadcast_to(amax, weight.shape.numpy()[axis]),
        input_amax=None
        if numbers.input_amax is None or numbers.format == "w8a16"
        else float(np.max(numbers.input_amax)),
        divisor=None if scale is None else np.asarray(scale, np.float32).reshape(-1),
    )


def _unfit_nodes(nodes: list[ir.Node]) -> str | None:
    if not nodes:
        return (
            "the graph has no matrix product of this name, and has one that belongs to no module: "
            "the exporter may have renamed it"
        )
    weight = nodes[0].inputs[1]
    if any(node.inputs[1] is not weight or output_axis(node) != output_axis(nodes[0]) for node in nodes):
        return "its matrix products have different weights"
    if (tensor := constant(weight)) is None:
        return "its weight is not a constant"
    if tensor.dtype not in FLOATS or len(tensor.shape) != 2:
        return f"its weight is {tensor.dtype} of shape {list(tensor.shape.numpy())}, not a float matrix"
    if any(node.op_type == "Gemm" and _flag(node, "transA") for node in nodes):
        return "its input is transposed"
    return None


def _unfit_numbers(numbers: ModuleQuantization, node: ir.Node) -> str | None:
    tensor, axis = constant(node.inputs[1]), output_axis(node)
    assert tensor is not None
    shape = tensor.shape.numpy()
    if np.size(numbers.weight_amax) not in {1, shape[axis]}:
        return f"its weight has {shape[axis]} output channels, the plan has {np.size(numbers.weight_amax)}"
    if numbers.pre_quant_scale is not None and np.size(numbers.pre_quant_scale) != shape[1 - axis]:
        return f"its weight has {shape[1 - axis]} input channels, the plan smooths {np.size(numbers.pre_quant_scale)}"
    return None


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and bool(attribute.as_int())
