"""Convolutions of a graph as layers to quantize: one scale for each output channel, or one for the weight."""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import ModuleQuantization
from trtbuild.graph.initializers import constant
from trtbuild.graph.layers import Layer
from trtbuild.graph.linear import checked, input_amax, output_axis, shaped_amax, shared_weight, unfit_amax, unfit_codes


def convolution(module: str, numbers: ModuleQuantization, nodes: list[ir.Node]) -> Layer | str:
    """The module as a layer to quantize, or in words why it cannot be one."""
    if (reason := shared_weight(nodes) or _unfit(numbers, nodes[0])) is not None:
        return reason
    weight, axis = nodes[0].inputs[1], output_axis(nodes[0])
    assert weight is not None
    assert weight.shape is not None
    return checked(
        Layer(
            module=module,
            numbers=numbers,
            nodes=nodes,
            weight=weight,
            axis=axis,
            weight_amax=shaped_amax(numbers, weight.shape.numpy()[axis]),
            input_amax=input_amax(numbers),
        )
    )


def _unfit(numbers: ModuleQuantization, node: ir.Node) -> str | None:
    tensor, traits = constant(node.inputs[1]), FORMATS[numbers.format]
    assert tensor is not None
    if traits.granularity in ("block", "tile"):
        return f"{numbers.format} scales blocks of a matrix, and this is a convolution: int8 and fp8 can be"
    if numbers.pre_quant_scale is not None:
        return "a convolution is not smoothed, and the plan has a scale for its inputs"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1 and traits.granularity == "channel":
        # Its weight is [in, out / groups, *kernel]: one slice holds output channels of every group.
        return "a transposed convolution in groups has no axis of output channels to scale"
    shape, axis = tensor.shape.numpy(), output_axis(node)
    stored = (shape[axis], *(length for index, length in enumerate(shape) if index != axis))
    return unfit_codes(numbers, stored) or unfit_amax(numbers, shape[axis])
