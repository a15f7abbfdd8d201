"""A quantization plan into a graph: native Q/DQ nodes at the products of the plan's modules, each in its own format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import onnx_ir as ir

from trtbuild.core.dialects import TENSORRT, Dialect
from trtbuild.core.errors import ModelError
from trtbuild.core.formats import FORMATS
from trtbuild.core.placement import PlacementChoice
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.results import Coverage, LayerCoverage
from trtbuild.graph import attention as attentions
from trtbuild.graph import embeddings as tables
from trtbuild.graph import initializers, quantize, reading, selection, weights
from trtbuild.graph import residual as additions
from trtbuild.graph.attention import Attention
from trtbuild.graph.block_scales import inputs as inputs_in_blocks
from trtbuild.graph.block_scales import operators
from trtbuild.graph.convolution import convolution
from trtbuild.graph.initializers import constant
from trtbuild.graph.layers import Layer
from trtbuild.graph.linear import CONVOLUTIONS, linear, products
from trtbuild.graph.naming import names_of
from trtbuild.graph.operands import Operand, quantize_operands
from trtbuild.graph.smoothing import smooth

_LEAST_OPSET = {ir.DataType.FLOAT: 13, ir.DataType.FLOAT16: 19, ir.DataType.BFLOAT16: 19}
"""The first opset whose DequantizeLinear takes scales of this type, one for each channel."""


def insert(
    model: ir.Model,
    plan: Plan,
    *,
    embeddings: Literal["high", "int8"] = "high",
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    attention: Literal["auto", "high", "int8", "fp8"] = "auto",
    residual: Literal["high", "int8"] = "high",
    ranges: Mapping[str, float] | None = None,
    placement: PlacementChoice | None = None,
    dialect: Dialect = TENSORRT,
    partial: bool = False,
) -> Coverage:
    """Quantize the plan's modules, in place, and say of each whether it was found.

    Weights become codes with scales per tensor, output channel or block; each distinct input tensor gets one
    QuantizeLinear for each type that its readers want, and each reader its own DequantizeLinear behind it. Attention
    products are quantized as `attention` says, and what skips the layers of residual additions as `residual` says, by
    `ranges`: greatest magnitudes by `<node name>:<input index>`, observed on the graph before smoothing. A `placement`
    narrows all three, block by block. `exclude` and `include` are patterns of `trtbuild.graph.selection`; that of a
    `partial` plan, one that is tried out, may name what the plan leaves alone.

    Raises ModelError where the graph is quantized already, its opset is too old, the target's dialect cannot say a
    format, a pattern matches nothing, or nothing would be left to quantize.
    """
    graph = model.graph
    _check_unquantized(model)
    nodes = products(graph)
    found = _attentions(graph, plan, nodes)
    kept = _kept_high(graph, plan, nodes, found, exclude, include, partial=partial)
    if placement is not None:
        slow = [module for module in plan.modules if not placement.quantizes(module, "layers")]
        kept = {**dict.fromkeys(slow, "auto: placement measured its block faster in high precision"), **kept}
    dead = _dead(plan, nodes)
    asked = {module: numbers for module, numbers in plan.modules.items() if module not in kept.keys() | dead.keys()}
    fitted = {module: _layer(module, numbers, nodes.get(module, [])) for module, numbers in asked.items()}
    order = {node: position for position, node in enumerate(graph)}
    layers = sorted((entry for entry in fitted.values() if isinstance(entry, Layer)), key=lambda it: order[it.nodes[0]])
    wanted = attentions.wanted_type(
        attention, {FORMATS[numbers.format].static_activation for numbers in asked.values()}
    )
    chosen = [
        entry
        for entry in found
        if wanted and entry.module not in kept and (placement is None or placement.quantizes(entry.module, "attention"))
    ]
    _check_opset(model, layers, chosen, wanted)
    weights.check(layers, dialect)

    observed = ranges or {}
    # Before smoothing, which must know whose values are to be quantized.
    covered = attentions.decide(graph, chosen, wanted, observed) if wanted else []
    smoothed = smooth(graph, layers, chosen)
    names = names_of(graph)
    operands = [*_inputs(layers), *attentions.quantized_operands(chosen, observed)]
    if residual == "int8":
        skipping = additions.operands(graph, _integer_products(layers), observed, "int8")
        operands += (each for each in skipping if placement is None or placement.quantizes(each.module, "residual"))
    quantize_operands(graph, operands, names)
    inputs_in_blocks.write(graph, [layer for layer in layers if layer.traits.dynamic], names)
    for layer in layers:
        weights.write(graph, layer, dialect, names)
    operators.define(model)

    covered[:0] = [
        LayerCoverage(
            module=module,
            format=asked[module].format,
            inserted=isinstance(entry, Layer),
            reason=entry if isinstance(entry, str) else "",
        )
        for module, entry in fitted.items()
    ]
    if embeddings == "int8":
        covered += tables.insert(graph, kept, dialect)
    if plan.modules and not covered:
        raise ModelError(
            "nothing is left to quantize: " + "; ".join(_reasons(kept)[:3]),
            hint="exclude less, or name under `include` what is to be quantized",
        )
    initializers.drop_unused(graph)
    possible = {*plan.modules, *(entry.module for entry in found if wanted)}
    return Coverage(
        layers=covered,
        smoothing_folded=len(smoothed.folded),
        smoothing_left=smoothed.left,
        kept_high={
            **plan.kept_high,
            **dead,
            **{module: reason for module, reason in kept.items() if module in possible},
        },
    )


def _check_unquantized(model: ir.Model) -> None:
    if reading.is_quantized(model):
        raise ModelError(
            f"the graph is already quantized: {reading.describe(model)}",
            hint="start from the model in high precision",
        )


def _attentions(graph: ir.Graph, plan: Plan, nodes: Mapping[str, list[ir.Node]]) -> list[Attention]:
    """The graph's attentions, none under the name of a layer."""
    weighted = {module for module, its in nodes.items() if any(constant(node.inputs[1]) is not None for node in its)}
    found = attentions.find(graph)
    for entry in found:
        if entry.module in plan.modules.keys() | weighted:
            entry.module = entry.softmax.name or entry.module
    return found


def _kept_high(
    graph: ir.Graph,
    plan: Plan,
    nodes: Mapping[str, list[ir.Node]],
    found: list[Attention],
    exclude: Sequence[str],
    include: Sequence[str],
    *,
    partial: bool,
) -> dict[str, str]:
    known: dict[str, set[str]] = {
        module: set()
        for module in (
            *plan.modules,
            *plan.kept_high,
            *plan.classes,
            *nodes,
            *(entry.module for entry in found),
            *tables.tables(graph),
        )
    }
    for module, kind in plan.classes.items():
        known[module].add(kind)
    for module, its in nodes.items():
        known[module].update(node.op_type for node in its)
    kept = selection.keep_high(known, graph, exclude=exclude, include=include)
    if not partial:
        selection.check_included(include, known, plan.kept_high)
    return kept


def _reasons(kept: Mapping[str, str]) -> list[str]:
    """Each reason once, behind the first module that has it and the number of others."""
    modules: dict[str, list[str]] = {}
    for module, reason in kept.items():
        modules.setdefault(reason, []).append(module)
    return [
        f"{its[0]}{f' and {len(its) - 1} more' if len(its) > 1 else ''}: {reason}" for reason, its in modules.items()
    ]


def _dead(plan: Plan, nodes: Mapping[str, list[ir.Node]]) -> dict[str, str]:
    """Modules that the model computes and no exported output depends on, such as a pooler whose output is not taken.

    A module without a product in the graph is dead only where every product of the graph belongs to a module of the
    plan. Otherwise one of the others may be this module's, under a name the exporter gave it, and it stays asked for.
    """
    with_weights = {
        module for module, its in nodes.items() if any(constant(node.inputs[1]) is not None for node in its)
    }
    if with_weights - plan.modules.keys() - plan.kept_high.keys() - plan.classes.keys():
        return {}
    return {module: "no exported output depends on it" for module in plan.modules if module not in nodes}


def _layer(module: str, numbers: ModuleQuantization, nodes: list[ir.Node]) -> Layer | str:
    fit = convolution if nodes and nodes[0].op_type in CONVOLUTIONS else linear
    return fit(module, numbers, nodes)


def _check_opset(model: ir.Model, layers: list[Layer], chosen: list[Attention], wanted: str | None) -> None:
    opset = model.opset_imports.get("", 0)
    needs = [19 if wanted == "fp8" else 13] if chosen else []
    for layer in layers:
        needs.append(_LEAST_OPSET[layer.weight.dtype or ir.DataType.FLOAT])
        needs.append(quantize.LEAST_OPSET[layer.traits.weight])
        if layer.traits.static_activation is not None:
            needs.append(quantize.LEAST_OPSET[layer.traits.static_activation])
        if layer.block_size:
            needs.append(quantize.LEAST_OPSET_OF_BLOCKS)
    if opset < (needed := max(needs, default=0)):
        raise ModelError(
            f"the graph has opset {opset}; its quantized form needs opset {needed}",
            hint="export the model with a newer opset",
        )
    if any(layer.traits.weight == "fp4" for layer in layers):
        _raise_opset(model, quantize.OPSET_OF_FP4)


def _raise_opset(model: ir.Model, opset: int) -> None:
    """From 21 on: opsets 22 and 23 let the operators of 21 take more types, and change nothing that they took."""
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        imports[""] = max(opset, imports.get("", opset))


def _inputs(layers: list[Layer]) -> Iterator[Operand]:
    for layer in layers:
        tensor = constant(layer.weight)
        kind = layer.traits.static_activation
        if layer.input_amax is None or kind is None or tensor is None:
            continue
        for node in layer.nodes:
            dtype = initializers.float_type(tensor)
            yield Operand(node, 0, kind, layer.input_amax, dtype, layer.module)


def _integer_products(layers: list[Layer]) -> Iterator[ir.Node]:
    for layer in layers:
        if layer.traits.activation == "int8":
            yield from layer.nodes
