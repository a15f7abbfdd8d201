"""Dtype lint: what a strongly typed builder refuses, misreads or runs slowly, found on a CPU before it is asked.

TensorRT decides precision from the types in the graph alone, and says little when they do not fit. The lint reads
types, shapes and scales, never the bytes of a weight, so a graph of any size takes milliseconds a thousand nodes.
"""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.graph.element_types import element_types
from trtbuild.graph.lint_pairs import Pair, lint_pair
from trtbuild.graph.lint_products import PRODUCTS, lint_product, lint_types
from trtbuild.graph.lint_rules import LintFinding

PAIRS = {"QuantizeLinear", "DequantizeLinear"}


def lint(model: ir.Model) -> list[LintFinding]:
    """Everything that the rules find in the main graph, errors first, then in the graph's order."""
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    types = element_types(model.graph)
    findings: list[LintFinding] = []
    for node in model.graph:
        if node.op_type in PAIRS and node.domain in ("", "ai.onnx"):
            findings += lint_pair(Pair(node, types), opset)
        elif node.op_type in PRODUCTS:
            findings += lint_product(node, types)
        findings += lint_types(node, types)
    return sorted(findings, key=lambda finding: finding.severity != "error")
