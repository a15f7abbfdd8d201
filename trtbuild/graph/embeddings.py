"""Embedding tables in INT8: codes are gathered, and only the gathered rows are dequantized."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.core.dialects import TENSORRT, Dialect
from trtbuild.core.results import LayerCoverage
from trtbuild.graph import initializers, quantize
from trtbuild.graph.naming import module_of

FORMAT = "embedding_int8"
LEAST_TABLE_BYTES = 1 << 19
"""Smaller tables save less than the extra node costs."""


def tables(graph: ir.Graph) -> dict[str, ir.Node]:
    """Gathers of rows from a large constant float table, by module path."""
    found = {}
    for node in graph:
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        table = initializers.constant(node.inputs[0])
        if table is None or table.dtype not in initializers.FLOATS or len(table.shape) != 2:
            continue
        if table.nbytes >= LEAST_TABLE_BYTES:
            found[module_of(node) or node.name or ""] = node
    return found


def insert(graph: ir.Graph, excluded: dict[str, str], dialect: Dialect = TENSORRT) -> list[LayerCoverage]:
    """Replace each large table, unless excluded, by INT8 codes with one scale for each column; in place."""
    asked = {module: node for module, node in tables(graph).items() if module not in excluded}
    if dialect.weights != "codes":
        reason = f"{dialect.name} takes no integer tables"
        return [LayerCoverage(module=module, format=FORMAT, inserted=False, reason=reason) for module in asked]
    return [_insert(graph, module, node) for module, node in asked.items()]


def _insert(graph: ir.Graph, module: str, gather: ir.Node) -> LayerCoverage:
    ids, table = gather.inputs[1], initializers.constant(gather.inputs[0])
    assert table is not None
    if ids is None or ids.shape is None:
        reason = "the rank of its indices is unknown"
        return LayerCoverage(module=module, format=FORMAT, inserted=False, reason=reason)
    matrix = table.numpy().astype(np.float32)
    scale = quantize.scales(np.abs(matrix).max(axis=0), "int8", initializers.float_type(table))
    values = initializers.add(graph, f"{module}.weight_codes", quantize.codes(matrix, scale, "int8"))
    gathered = gather.outputs[0]
    rows = ir.Value(name=f"{gathered.name}_codes", type=ir.TensorType(ir.DataType.INT8), shape=gathered.shape)
    picked = ir.Node(
        "", "Gather", [values, ids], list(gather.attributes.values()), outputs=[rows], name=f"{gather.name}_codes"
    )
    graph.insert_before(gather, picked)
    axis = len(ids.shape)  # the gathered tensor has the indices' axes, then the table's columns
    output = quantize.dequantize(graph, gather, rows, scale, name=f"{module}/DequantizeLinear", axis=axis)
    gathered.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(gather, safe=True)
    return LayerCoverage(module=module, format=FORMAT, inserted=True)
