"""Linear modules of a graph: the matrix products with a constant weight, found by module path."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from trtbuild.core.formats import FORMATS, GREATEST
from trtbuild.core.quantization import ModuleQuantization
from trtbuild.core.tensor_file import Array
from trtbuild.graph.initializers import FLOATS, constant
from trtbuild.graph.layers import Layer
from trtbuild.graph.naming import Names

MATRIX_PRODUCTS = ("MatMul", "Gemm")
CONVOLUTIONS = ("Conv", "ConvTranspose")
_NAMED = re.compile(r"(?P<module>.+)/(?P<operator>[A-Za-z]+)(?:_\d+)?")


def products(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """Matrix products and convolutions by module path, in graph order.

    A node whose name does not end in `/<operator>` belongs to no module that is known: its whole name stands for one.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        if node.op_type in (*MATRIX_PRODUCTS, *CONVOLUTIONS) and not node.domain and node.name:
            match = _NAMED.fullmatch(node.name)
            module = match["module"] if match and match["operator"] == node.op_type else node.name
            found.setdefault(module, []).append(node)
    return found


def output_axis(node: ir.Node) -> int:
    """The weight's axis of output channels: 1 for W [in, out] of a product and W [in, out, *kernel] of a transposed
    convolution, 0 for a Gemm with transB and a convolution, W [out, in, ...]."""
    return 0 if node.op_type == "Conv" or (node.op_type == "Gemm" and flag(node, "transB")) else 1


def along_output(node: ir.Node, factor: Array) -> Array:
    """`factor` [out], shaped to broadcast against this node's weight matrix."""
    return factor if output_axis(node) == 1 else factor[:, None]


def linear(module: str, numbers: ModuleQuantization, nodes: list[ir.Node]) -> Layer | str:
    """The module as a layer to quantize, or in words why it cannot be one."""
    if (reason := _unfit_nodes(nodes) or _unfit_input(numbers, nodes) or _unfit_numbers(numbers, nodes[0])) is not None:
        return reason
    weight = nodes[0].inputs[1]
    assert weight is not None
    assert weight.shape is not None
    outputs = weight.shape.numpy()[output_axis(nodes[0])]
    scale = numbers.pre_quant_scale
    layer = Layer(
        module=module,
        numbers=numbers,
        nodes=nodes,
        weight=weight,
        axis=output_axis(nodes[0]),
        weight_amax=shaped_amax(numbers, outputs),
        input_amax=input_amax(numbers),
        divisor=None if scale is None else np.asarray(scale, np.float32).reshape(-1),
    )
    return checked(layer)


def checked(layer: Layer) -> Layer | str:
    """The layer with the numbers of the graph's weight, or in words why the plan speaks of another weight."""
    if not layer.codes_fit():
        return "the plan's codes are of another weight: the exporter may have folded a norm into it"
    if layer.numbers.weight_codes is None and layer.nodes[0].op_type != "MatMul":
        layer.follow_graph()
    return layer


def shaped_amax(numbers: ModuleQuantization, outputs: int) -> Array:
    """The plan's weight amax in the format's shape: one number of a plan may stand for all channels."""
    amax = np.asarray(numbers.weight_amax, np.float32)
    if FORMATS[numbers.format].granularity == "tensor":
        return np.asarray(amax.max())
    return amax if amax.ndim == 2 else np.broadcast_to(amax.reshape(-1), outputs)


def input_amax(numbers: ModuleQuantization) -> float | None:
    """The input's range, where the format quantizes inputs."""
    if FORMATS[numbers.format].activation is None or numbers.input_amax is None:
        return None
    return float(np.max(numbers.input_amax))


def split_gemm(graph: ir.Graph, gemm: ir.Node, names: Names, module: str) -> ir.Node:
    """A Gemm as `<module>/MatMul` and `<module>/Add`, in place; its weight [in, out] is the caller's to set.

    TensorRT and ONNX Runtime know blocks along the inputs of a MatMul's weight [in, out]; ModelOpt mistakes the axis of
    a Gemm with transB. Only for a Gemm that `is_plain`.
    """
    x, weight, bias = gemm.inputs[0], gemm.inputs[1], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    old = gemm.outputs[0]
    name = names.unique(f"{module}/MatMul")
    result = ir.Value(name=f"{name}:0", type=old.type, shape=old.shape)
    product = ir.Node("", "MatMul", [x, weight], outputs=[result], name=name)
    added = [product]
    if bias is not None:
        name = names.unique(f"{module}/Add")
        result = ir.Value(name=f"{name}:0", type=old.type, shape=old.shape)
        added.append(ir.Node("", "Add", [product.outputs[0], bias], outputs=[result], name=name))
    ir.convenience.replace_nodes_and_values(graph, gemm, [gemm], added, [old], [result])
    return product


def is_plain(gemm: ir.Node) -> bool:
    """Whether a Gemm is X @ W + b and nothing more."""
    factors = [gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return gemm.op_type == "Gemm" and factors == [1.0, 1.0] and not flag(gemm, "transA")


def shared_weight(nodes: list[ir.Node]) -> str | None:
    """In words, why the nodes of a module have no constant float weight in common; None where they have."""
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
    if tensor.dtype not in FLOATS:
        return f"its weight is {tensor.dtype}, not a float"
    return None


def unfit_amax(numbers: ModuleQuantization, outputs: int) -> str | None:
    """In words, why the plan's numbers for a weight per tensor or channel do not fit it."""
    found = np.size(numbers.weight_amax)
    if FORMATS[numbers.format].granularity == "channel" and found not in {1, outputs}:
        return f"its weight has {outputs} output channels, the plan has {found}"
    if FORMATS[numbers.format].needs_input_range and numbers.input_amax is None:
        return f"the plan has no range for its input, which {numbers.format} quantizes"
    return None


def unfit_codes(numbers: ModuleQuantization, shape: tuple[int, ...]) -> str | None:
    """In words, why the plan's codes do not fit a weight of this shape, output channels first."""
    if numbers.weight_codes is None:
        return None
    stored, number_type = np.asarray(numbers.weight_codes), FORMATS[numbers.format].weight
    if stored.shape != shape:
        return f"its weight is {list(shape)}, the plan's codes are {list(stored.shape)}"
    greatest = int(GREATEST[number_type])
    if number_type != "fp8" and stored.size and (stored.max() > greatest or stored.min() < -greatest - 1):
        return f"the plan's codes leave the range of {number_type}"
    return None


def flag(node: ir.Node, name: str) -> bool:
    """Whether an integer attribute is there and not 0."""
    attribute = node.attributes.get(name)
    return attribute is not None and bool(attribute.as_int())


def _unfit_nodes(nodes: list[ir.Node]) -> str | None:
    if (reason := shared_weight(nodes)) is not None:
        return reason
    tensor = constant(nodes[0].inputs[1])
    assert tensor is not None
    if len(tensor.shape) != 2:
        return f"its weight is {tensor.dtype} of shape {list(tensor.shape.numpy())}, not a float matrix"
    if any(node.op_type == "Gemm" and flag(node, "transA") for node in nodes):
        return "its input is transposed"
    return None


def _unfit_input(numbers: ModuleQuantization, nodes: list[ir.Node]) -> str | None:
    """TensorRT scales blocks of tensors with two or three axes (IDynamicQuantizeLayer)."""
    shapes = [node.inputs[0].shape for node in nodes if node.inputs[0] is not None]
    ranks = [len(shape) for shape in shapes if shape is not None and len(shape) not in (2, 3)]
    if FORMATS[numbers.format].dynamic and ranks:
        return f"its input has {ranks[0]} axes, and {numbers.format} scales blocks of two or three"
    return None


def _unfit_numbers(numbers: ModuleQuantization, node: ir.Node) -> str | None:
    tensor, axis = constant(node.inputs[1]), output_axis(node)
    assert tensor is not None
    outputs, inputs = tensor.shape.numpy()[axis], tensor.shape.numpy()[1 - axis]
    if numbers.pre_quant_scale is not None and np.size(numbers.pre_quant_scale) != inputs:
        return f"its weight has {inputs} input channels, the plan smooths {np.size(numbers.pre_quant_scale)}"
    if (reason := unfit_codes(numbers, (outputs, inputs))) is not None:
        return reason
    return _unfit_blocks(numbers, outputs, inputs) or unfit_amax(numbers, outputs)


def _unfit_blocks(numbers: ModuleQuantization, outputs: int, inputs: int) -> str | None:
    traits = FORMATS[numbers.format]
    if traits.granularity not in ("block", "tile"):
        return None
    block = traits.block or numbers.block_size
    if not block:
        return f"the plan gives no block size, which {numbers.format} needs"
    # A shorter last block is legal ONNX, but TensorRT infers the block's size from the number of scales.
    if inputs % block and (inputs > block or traits.dynamic):
        return f"its {inputs} inputs do not divide into blocks of {block}"
    wanted, found = (outputs, -(-inputs // block)), np.shape(numbers.weight_amax)
    return None if found == wanted else f"its blocks are {list(wanted)}, the plan's numbers {list(found)}"
