"""The lint's rules by code: each a sentence about what strong typing wants, and what to do where a graph has not."""

from __future__ import annotations

from typing import Literal, NamedTuple

from trtbuild.core.values import Result


class Rule(NamedTuple):
    """One rule; the sources are TensorRT's parser and headers, and threads of those who met it."""

    severity: Literal["error", "warning"]
    remedy: str


RULES: dict[str, Rule] = {
    # Parser: from opset 19 on no Cast is inserted. Model-Optimizer 118: "No matching rules found".
    "Q001": Rule("error", "store the scale in the type of the data: run autocast before the insertion"),
    "Q002": Rule("error", "make the scale an initializer: TensorRT wants it at build time"),
    "Q003": Rule("error", "calibrate again; a dead channel takes a tiny positive scale"),
    "Q004": Rule("error", "quantize symmetrically: TensorRT takes no zero point but 0"),
    "Q005": Rule("error", "one scale, one a channel of the axis, or the data's rank with one axis in blocks"),
    "Q006": Rule("error", "take a block size that divides the axis, or leave the layer in high precision"),
    "Q007": Rule("error", "blocks run along the axis that the product sums over, channels along the one it keeps"),
    # Model-Optimizer 1289: such a node blocks the fusion, and the product runs in high precision.
    "Q008": Rule("warning", "move it before the QuantizeLinear, or fold it into the constant"),
    "Q009": Rule("warning", "quantize both inputs of the product, or its weight alone"),
    "Q010": Rule("error", "activations take one scale a tensor: several are for constants"),
    "Q011": Rule("error", "give an INT8 zero point: TensorRT reads UINT8 as INT8 without a word"),
    "Q012": Rule("error", "cast one side, or run autocast on the whole graph"),
    # onnxruntime 14229: "only activation types allowed as input to this layer".
    "Q013": Rule("error", "leave the bias in high precision"),
    "Q014": Rule("error", "export with the newer opset"),
    "Q015": Rule("error", "pad the constant, or leave the layer in high precision: two values share a byte"),
    "Q016": Rule("error", "let zero point and output_dtype say the same type"),
    "Q017": Rule("warning", "ONNX Runtime runs it; for TensorRT keep the table in high precision"),
}
"""Rules by code. A code never changes its meaning."""


class LintFinding(Result):
    """One thing wrong in a graph."""

    node: str
    """The node's name; its first output's where it has none."""
    code: str
    severity: Literal["error", "warning"]
    message: str
    """What is wrong, in a sentence."""
    remedy: str


def finding(node: str, code: str, message: str) -> LintFinding:
    """A finding of the rule with this code."""
    rule = RULES[code]
    return LintFinding(node=node, code=code, severity=rule.severity, message=message, remedy=rule.remedy)
