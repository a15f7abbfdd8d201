"""Where a channel scale can disappear: into the constants of the nodes that compute the scaled tensor.

Each fold multiplies a tensor's channels (last axis) by a positive vector without adding a node that computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph.attention import Attention
from trtbuild.graph.float_types import float_type
from trtbuild.graph.gelu import fold_scale
from trtbuild.graph.initializers import constant, is_unknown, only_used_by, scale_input
from trtbuild.graph.layers import Layer
from trtbuild.graph.linear import MATRIX_PRODUCTS, along_output, output_axis
from trtbuild.graph.naming import names_of

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_SPLIT_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True)
class _Affine:
    """Nodes that end in a constant scale per channel, first to last, and the inputs that hold its constants."""

    nodes: list[ir.Node]
    constants: list[tuple[ir.Node, int]]


@dataclass(frozen=True)
class _Source:
    """A linear whose output channels become a tensor's channels with nothing else reading them on the way."""

    product: ir.Node
    constants: list[tuple[ir.Node, int]] = field(default_factory=list)
    """Biases, which scale with the output."""
    context: ir.Node | None = None
    """The second product of an attention, where the linear's output is that attention's value."""


def fold(
    graph: ir.Graph,
    value: ir.Value,
    readers: list[ir.Node],
    scale: Array,
    layers: list[Layer],
    attentions: list[Attention],
) -> bool:
    """Multiply `value` by `scale` [channels] for `readers` alone, by changing constants before it.

    A linear of `layers` takes the scale as its `factor`, so that its codes stay as they are. Returns False, with the
    graph unchanged, where nothing before the tensor can absorb a scale.
    """
    if (affine := _affine(value, scale.size)) is not None:
        _fold_affine(graph, affine, readers, scale)
        return True
    if not only_used_by(value, readers):
        return False
    gelu = _sole_producer(value, "Gelu")
    if gelu is not None and float_type(gelu.inputs[0]) is not None:
        fold_scale(graph, gelu, scale)
        return True
    if (factor := _constant_factor(value, scale.size)) is not None:
        scale_input(graph, *factor, scale)
        return True
    source = _context(value, scale.size) or _rectified(value, scale.size) or _gated(value, scale.size)
    return source is not None and _fold_source(graph, source, scale, layers, attentions)


def _fold_source(
    graph: ir.Graph, source: _Source, scale: Array, layers: list[Layer], attentions: list[Attention]
) -> bool:
    owner = next((layer for layer in layers if source.product in layer.nodes), None)
    if owner is not None and len(owner.nodes) != 1:
        return False  # the module is called more than once: its weight serves other tensors too
    if owner is not None and owner.numbers.weight_codes is not None and owner.traits.granularity == "tensor":
        return False  # its codes have one scale for all rows, and each row would need its own
    attention = next((entry for entry in attentions if entry.context is source.context), None)
    if attention is not None and attention.number_type is not None:
        # Of the value only the greatest magnitude of all channels was observed, and the scale changes each channel:
        # what the greatest becomes has a bound, which costs FP8 nothing but unused exponents, and INT8 its precision.
        if attention.number_type != "fp8":
            return False
        attention.value_factor *= float(scale.max())
    if owner is None:
        scale_input(graph, source.product, 1, along_output(source.product, scale))
    else:
        owner.factor = scale if owner.factor is None else owner.factor * scale
    for node, index in source.constants:
        scale_input(graph, node, index, scale)
    return True


def _affine(value: ir.Value, channels: int) -> _Affine | None:
    """A norm, or the `* gamma + beta` that a decomposed norm ends in; casts after it may stay."""
    casts: list[ir.Node] = []
    node = value.producer()
    while node is not None and node.op_type == "Cast":
        casts.insert(0, node)
        node = _producer(node, 0)
    if node is None:
        return None
    if node.op_type in _NORMS:
        last = node.attributes.get_int("axis", -1) == -1
        parameters = [index for index in (1, 2) if index < len(node.inputs) and node.inputs[index] is not None]
        if last and len(node.outputs) == 1 and all(_is_vector(node.inputs[i], channels, True) for i in parameters):
            return _Affine([node, *casts], [(node, index) for index in parameters])
        return None
    if (gamma := _constant_side(node, "Mul", channels)) is not None:
        return _Affine([node, *casts], [(node, gamma)])
    if (beta := _constant_side(node, "Add", channels)) is not None:
        product = _producer(node, 1 - beta)
        if product is not None and (gamma := _constant_side(product, "Mul", channels)) is not None:
            return _Affine([product, node, *casts], [(product, gamma), (node, beta)])
    return None


def _fold_affine(graph: ir.Graph, affine: _Affine, readers: list[ir.Node], scale: Array) -> None:
    last = affine.nodes[-1].outputs[0]
    shared = [(node.outputs[0], [after]) for node, after in zip(affine.nodes, affine.nodes[1:], strict=False)]
    twins = {node: node for node in affine.nodes}
    if not all(only_used_by(value, allowed) for value, allowed in [*shared, (last, readers)]):
        twins = _twin(graph, affine.nodes)
        for reader in readers:
            for index, read in enumerate(reader.inputs):
                if read is last:
                    reader.replace_input_with(index, twins[affine.nodes[-1]].outputs[0])
    for node, index in affine.constants:
        scale_input(graph, twins[node], index, scale)


def _twin(graph: ir.Graph, nodes: list[ir.Node]) -> dict[ir.Node, ir.Node]:
    """Copies of a chain of nodes, `<name>_smoothed`, right after it: the residual keeps the unscaled tensor."""
    twins: dict[ir.Node, ir.Node] = {}
    outputs: dict[ir.Value, ir.Value] = {}
    names = names_of(graph)
    for node in nodes:
        original = node.outputs[0]
        name = names.unique(f"{node.name}_smoothed")
        copied = ir.Value(name=f"{name}:0", type=original.type, shape=original.shape)
        twins[node] = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else outputs.get(value, value) for value in node.inputs],
            list(node.attributes.values()),
            outputs=[copied],
            name=name,
        )
        outputs[original] = copied
    graph.insert_after(nodes[-1], list(twins.values()))
    return twins


def _context(value: ir.Value, channels: int) -> _Source | None:
    """The value projection before an attention: Reshape(Transpose(P @ Transpose(Reshape(V))))."""
    node: ir.Node | None = None
    context: ir.Node | None = None
    for op_type, index in (("Reshape", 0), ("Transpose", 0), ("MatMul", 1), ("Transpose", 0), ("Reshape", 0)):
        node = _sole_producer(value, op_type)
        if node is None or (op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) != _SPLIT_HEADS):
            return None
        inner = node.inputs[index]
        if inner is None or not only_used_by(inner, [node]):
            return None
        context = node if op_type == "MatMul" else context
        value = inner
    assert node is not None
    # The last node met splits channels into heads. Where it splits exactly the linear's channels, which are as many as
    # the context's, no head was repeated in between (grouped queries), so channel for channel the two agree.
    if not _splits_channels(value.shape, node.outputs[0].shape, channels):
        return None
    source = _source(value, channels)
    return None if source is None else replace(source, context=context)


def _splits_channels(before: ir.Shape | None, after: ir.Shape | None, channels: int) -> bool:
    """Whether a reshape turns [batch, sequence, channels] into [batch, sequence, heads, width]."""
    if after is None or len(after) != 4:
        return False
    if isinstance(after[2], int) and isinstance(after[3], int):
        return after[2] * after[3] == channels
    # AutoCast forgets heads and width; they follow where the leading dimensions stay.
    return before is not None and len(before) == 3 and all(map(_same_length, before[:2], after[:2]))


def _same_length(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    unknown = is_unknown(one) or is_unknown(other)
    return not unknown and one == other


def _rectified(value: ir.Value, channels: int) -> _Source | None:
    """A linear right before the tensor, or with ReLUs in between: relu(s * x) = s * relu(x) for positive s."""
    while (node := _sole_producer(value, "Relu")) is not None:
        inner = node.inputs[0]
        if inner is None or not only_used_by(inner, [node]):
            return None
        value = inner
    return _source(value, channels)


def _constant_factor(value: ir.Value, channels: int) -> tuple[ir.Node, int] | None:
    """The constant of a product of products, such as 0.5 in `x * (0.5 * (1 + erf(x / sqrt 2)))`."""
    product = _sole_producer(value, "Mul")
    if product is None or product.inputs[0] is product.inputs[1]:
        return None
    for side in product.inputs:
        node = None if side is None or not only_used_by(side, [product]) else _through_casts(side)
        if node is not None and (index := _constant_side(node, "Mul", channels)) is not None:
            return node, index
    return None


def _gated(value: ir.Value, channels: int) -> _Source | None:
    """The plain linear of a gated product: `up` of `act(gate) * up`."""
    node = _sole_producer(value, "Mul")
    if node is None:
        return None
    for side in node.inputs:
        if side is not None and only_used_by(side, [node]) and node.inputs[0] is not node.inputs[1]:
            source = _source(side, channels)
            if source is not None:
                return source
    return None


def _source(value: ir.Value, channels: int) -> _Source | None:
    """The linear, with its bias, that computes exactly this tensor. Casts in between may stay."""
    biases: list[tuple[ir.Node, int]] = []
    node = _through_casts(value)
    if node is not None and (bias := _constant_side(node, "Add", channels)) is not None:
        biases.append((node, bias))
        inner = node.inputs[1 - bias]
        if inner is None or not only_used_by(inner, [node]):
            return None
        node = _through_casts(inner)
    if node is None or node.op_type not in MATRIX_PRODUCTS:
        return None
    weight = constant(node.inputs[1])
    if weight is None or len(weight.shape) != 2 or weight.shape[output_axis(node)] != channels:
        return None
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        if not _is_vector(node.inputs[2], channels):
            return None
        biases.append((node, 2))
    return _Source(node, biases)


def _through_casts(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    while node is not None and node.op_type == "Cast":
        inner = node.inputs[0]
        if inner is None or not only_used_by(inner, [node]):
            return None
        node = inner.producer()
    return node


def _sole_producer(value: ir.Value, op_type: str) -> ir.Node | None:
    node = _through_casts(value)
    return node if node is not None and node.op_type == op_type else None


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return None if value is None else value.producer()


def _constant_side(node: ir.Node, op_type: str, channels: int) -> int | None:
    """Which input of an elementwise node is a constant that a vector of channels can multiply."""
    if node.op_type != op_type:
        return None
    return next((index for index in (0, 1) if _is_vector(node.inputs[index], channels)), None)


def _is_vector(value: ir.Value | None, channels: int, exact: bool = False) -> bool:
    """Whether a constant is one number per channel, or (unless `exact`) one for all."""
    tensor = constant(value)
    if tensor is None:
        return False
    shape = tuple(tensor.shape.numpy())
    return shape == (channels,) or (
        not exact
        and int(np.prod(shape)) in {1, shape[-1] if shape else 1}
        and (not shape or shape[-1] in {1, channels})
    )
