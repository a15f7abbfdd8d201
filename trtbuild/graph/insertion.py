"""A quantization plan into a graph: native Q/DQ nodes at the matrix products of the plan's modules."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.quantization import Plan
from trtbuild.core.results import Coverage, LayerCoverage
from trtbuild.graph import embeddings as tables
from trtbuild.graph import initializers, quantize
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import Linear, linear, products
from trtbuild.graph.smoothing import smooth

_LEAST_OPSET = {ir.DataType.FLOAT: 13, ir.DataType.FLOAT16: 19, ir.DataType.BFLOAT16: 19}
"""The first opset whose DequantizeLinear takes scales of this type, one for each channel."""


def insert(model: ir.Model, plan: Plan, *, embeddings: Literal["high", "int8"], exclude: list[str]) -> Coverage:
    """Quantize the plan's modules, in place, and say of each whether it was found.

    Weights become INT8 codes with one scale for each output channel; each distinct input tensor gets one
    QuantizeLinear, and each reader its own DequantizeLinear behind it. Modules that a pattern of `exclude` matches
    stay in high precision. Raises ModelError where the graph is quantized already, its opset is too old, or a
    pattern matches nothing.
    """
    graph = model.graph
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.all_nodes()):
        raise ModelError(
            "the graph is already quantized: it holds QuantizeLinear or DequantizeLinear nodes",
            hint="start from the model in high precision",
        )
    nodes = products(graph)
    excluded = _excluded(exclude, [*plan.modules, *plan.kept_high, *nodes, *tables.tables(graph)])
    dead = _dead(plan, nodes)
    asked = {module: numbers for module, numbers in plan.modules.items() if module not in excluded | dead}
    found = {module: linear(module, numbers, nodes.get(module, [])) for module, numbers in asked.items()}
    order = {node: position for position, node in enumerate(graph)}
    linears = sorted(
        (entry for entry in found.values() if isinstance(entry, Linear)), key=lambda entry: order[entry.nodes[0]]
    )
    _check_opset(model, linears)
    smoothed = smooth(graph, linears)
    _quantize_inputs(graph, linears, order)
    for entry in linears:
        _quantize_weight(graph, entry)
    layers = [
        LayerCoverage(
            module=module,
            format=asked[module].format,
            inserted=isinstance(entry, Linear),
            reason=entry if isinstance(entry, str) else "",
        )
        for module, entry in found.items()
    ]
    if embeddings == "int8":
        layers += tables.insert(graph, excluded)
    initializers.drop_unused(graph)
    planned = {module: reason for module, reason in excluded.items() if module in plan.modules}
    return Coverage(
        layers=layers,
        smoothing_folded=len(smoothed.folded),
        smoothing_left=smoothed.left,
        kept_high={**plan.kept_high, **dead, **planned},
    )


def _excluded(patterns: list[str], modules: Iterable[str]) -> dict[str, str]:
    """Modules that a pattern matches, each with the reason. Raises ModelError for a pattern that matches none."""
    known = list(dict.fromkeys(modules))
    excluded: dict[str, str] = {}
    for pattern in patterns:
        matched = [module for module in known if fnmatchcase(module, pattern)]
        if not matched:
            close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
            raise ModelError(f"exclude: no module matches {pattern!r}", hint=f"did you mean {', '.join(close)}?")
        for module in matched:
            excluded.setdefault(module, f"excluded by pattern {pattern!r}")
    return excluded


def _dead(plan: Plan, nodes: dict[str, list[ir.Node]]) -> dict[str, str]:
    """Modules that the model computes and no exported output depends on, such as a pooler whose output is not taken.

    A module without a product in the graph is dead only where every product of the graph belongs to a module of the
    plan. Otherwise one of the others may be this module's, under a name the exporter gave it, and it stays asked for.
    """
    with_weights = {
        module for module, its in nodes.items() if any(constant(node.inputs[1]) is not None for node in its)
    }
    if with_weights - plan.modules.keys() - plan.kept_high.keys():
        return {}
    return {module: "no exported output depends on it" for module in plan.modules if module not in nodes}


def _check_opset(model: ir.Model, linears: list[Linear]) -> None:
    opset = model.opset_imports.get("", 0)
    needed = max((_LEAST_OPSET[entry.weight.dtype or ir.DataType.FLOAT] for entry in linears), default=0)
    if opset < needed:
        raise ModelError(
            f"the graph has opset {opset}; its quantized form needs opset {needed}",
            hint="export the model with a newer opset",
        )


def _quantize_inputs(graph: ir.Graph, linears: list[Linear], order: dict[ir.Node, int]) -> None:
    """One QuantizeLinear for each tensor that quantized products read; amax is the greatest that any of them saw."""
    readers: dict[ir.Value, list[tuple[ir.Node, Linear]]] = {}
    for entry in linears:
        for node in entry.nodes:
            value = node.inputs[0]
            if entry.input_amax is not None and value is not None:
                readers.setdefault(value, []).append((node, entry))
    taken: set[str] = set()
    for value, group in readers.items():
        first, owner = min(group, key=lambda reader: order[reader[0]])
        amax = np.float32(max(entry.input_amax or 0.0 for _, entry in group))
        weight = initializers.constant(owner.weight)
        assert weight is not None
        # A module called twice on different tensors has two pairs.
        name = owner.module if owner.module not in taken else f"{owner.module}/{order[first]}"
        taken.add(name)
        scale = quantize.scales(np.asarray(amax), initializers.float_type(weight))
        nodes = sorted((node for node, _ in group), key=order.__getitem__)
        quantize.quantize_for(graph, nodes, value, scale, module=name)


def _quantize_weight(graph: ir.Graph, entry: Linear) -> None:
    matrix, amax = entry.scaled()
    weight = initializers.constant(entry.weight)
    assert weight is not None
    scale = quantize.scales(amax, initializers.float_type(weight))
    stored = quantize.codes(matrix, scale[:, None])
    stored = stored if entry.axis == 0 else np.ascontiguousarray(stored.T)
    values = initializers.add(graph, f"{entry.module}.weight_codes", stored)
    name = f"{entry.module}/DequantizeLinear_weight"
    output = quantize.dequantize(graph, entry.nodes[0], values, scale, axis=entry.axis, name=name)
    for node in entry.nodes:
        node.replace_input_with(1, output)
