"""Which modules of a graph a format quantizes, and why the others stay in high precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir as ir

from trtbuild.core.errors import DataError
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.tensor_file import Array
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import CONVOLUTIONS, flag, output_axis, products, shared_weight

LEAST_CHANNELS = 16
"""Convolutions of fewer channels have no INT8 or FP8 kernels in TensorRT worth their Q/DQ (ModelOpt's
`find_nodes_from_convs_to_exclude`, whose rules `_slow` spells in words)."""
MOST_FP8_TAPS = 32
"""Kernel elements of a convolution for which TensorRT has FP8 kernels (the same function)."""


@dataclass
class Asked:
    """The modules of a graph, in graph order."""

    nodes: dict[str, list[ir.Node]] = field(default_factory=dict)
    """Of each module to quantize: its products, all with one constant weight."""
    kept_high: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    def keep(self, reasons: Mapping[str, str]) -> None:
        """Leave modules in high precision after all."""
        self.kept_high |= reasons
        self.nodes = {module: nodes for module, nodes in self.nodes.items() if module not in reasons}

    def linears(self) -> dict[str, list[ir.Node]]:
        """The matrix products among them."""
        return {module: nodes for module, nodes in self.nodes.items() if nodes[0].op_type not in CONVOLUTIONS}

    def weight(self, module: str) -> Array:
        """A module's weight in float32, output channels first."""
        node = self.nodes[module][0]
        tensor = constant(node.inputs[1])
        assert tensor is not None
        return np.moveaxis(tensor.numpy().astype(np.float32), output_axis(node), 0)

    def calls(self) -> dict[str, list[str]]:
        """The names of each module's nodes."""
        return {module: [node.name or "" for node in nodes] for module, nodes in self.nodes.items()}

    def names(self, *, convolutions: bool = True) -> list[str]:
        """The names of their nodes, or of the matrix products alone."""
        modules = self.nodes if convolutions else self.linears()
        return [node.name or "" for nodes in modules.values() for node in nodes]


def asked(graph: ir.Graph, form: Format, block_size: int) -> Asked:
    """The modules with weights: matrix products and convolutions. Products of two computed tensors are no modules.

    Raises DataError where a weight is not finite.
    """
    result, inputs = Asked(), set(graph.inputs)
    for module, nodes in products(graph).items():
        convolution = nodes[0].op_type in CONVOLUTIONS
        if not convolution and all(constant(value) is None for node in nodes for value in node.inputs[:2]):
            continue
        result.classes[module] = nodes[0].op_type
        reason = shared_weight(nodes) or (
            _unfit_convolution(nodes[0], form, inputs) if convolution else _unfit_product(nodes, form, block_size)
        )
        if reason:
            result.kept_high[module] = reason
            continue
        weight = constant(nodes[0].inputs[1])
        assert weight is not None
        if not np.isfinite(weight.numpy().astype(np.float32)).all():
            raise DataError(f"the weight of {module} holds NaN or infinity", hint="check the checkpoint")
        result.nodes[module] = nodes
    return result


def _unfit_product(nodes: list[ir.Node], form: Format, block_size: int) -> str | None:
    traits, node = FORMATS[form], nodes[0]
    shape = _shape(node)
    if len(shape) != 2:
        return f"its weight has the shape {list(shape)}, not that of a matrix"
    if any(call.op_type == "Gemm" and flag(call, "transA") for call in nodes):
        return "its input is transposed"
    inputs, block = shape[1 - output_axis(node)], traits.block or block_size
    if traits.granularity in ("block", "tile") and inputs > block and inputs % block:
        return f"its {inputs} inputs do not divide into blocks of {block}"
    return None


def _unfit_convolution(node: ir.Node, form: Format, inputs: set[ir.Value]) -> str | None:
    traits, group = FORMATS[form], node.attributes.get_int("group", 1)
    if traits.granularity in ("block", "tile"):
        return f"{form} scales blocks of a matrix, and this is a convolution: int8 and fp8 can be"
    if node.op_type == "ConvTranspose":
        if group != 1 and traits.granularity == "channel":
            return "a transposed convolution in groups has no axis of output channels to scale"
        return None
    return None if traits.activation is None else _slow(node, _shape(node), group, traits.activation, inputs)


def _slow(node: ir.Node, shape: tuple[int, ...], group: int, kind: str, inputs: set[ir.Value]) -> str | None:
    """Why ModelOpt leaves a convolution alone: TensorRT would run it slower than in FP16."""
    (outputs, per_group), kernel = shape[:2], shape[2:]
    few = f"ModelOpt leaves {kind} convolutions of {per_group} to {outputs} channels alone"
    if kind == "fp8":
        if min(outputs, per_group) <= LEAST_CHANNELS:
            return f"{few}: FP8 pays above {LEAST_CHANNELS}"
        taps = prod(kernel)
        return (
            f"ModelOpt leaves FP8 convolutions of {taps} taps alone: {MOST_FP8_TAPS} are the most"
            if (taps > MOST_FP8_TAPS)
            else None
        )
    if min(outputs, per_group) >= LEAST_CHANNELS:
        return None
    if group > 1:
        return None if outputs % 8 == 0 and min(kernel) >= 3 else f"{few} in {group} groups"
    wide = max(outputs, per_group) >= LEAST_CHANNELS or node.inputs[0] in inputs
    aligned = outputs % 8 == 0 or per_group % 8 == 0
    return None if wide and aligned and len(set(kernel)) == 1 else few


def _shape(node: ir.Node) -> tuple[int, ...]:
    weight = constant(node.inputs[1])
    assert weight is not None
    return tuple(weight.shape.numpy())
