"""What a repair found: which nodes 16 bits are too small for, which modules quantization costs too much."""

from __future__ import annotations

from trtbuild.core.values import Result

FP16_MAX = 65504.0
"""The greatest finite number of IEEE 754 binary16."""


class GuiltyNode(Result):
    """A node that makes a non-finite value out of finite ones in 16 bits, where FP32 stays finite."""

    node: str
    """Its name."""
    module: str
    """The path of its module."""
    operator: str
    """ONNX's name of the operator."""
    amax_fp32: float | None
    """Greatest magnitude of its output in FP32 on the batches looked at, against FP16's 65504; None where the FP32
    graph has no such node."""


class Bisection(Result):
    """Which nodes must stay in FP32 for the outputs of a 16-bit graph to be finite."""

    guilty: list[GuiltyNode] = []
    """In the order in which they were found."""
    pinned: dict[str, str] = {}
    """New patterns for `keep_fp32`, each with the reason: guilty nodes, and those that read what does not fit."""
    batches: int
    """Batches on which the graph was run."""
    broken: int
    """Batches on which something was not finite before."""
    casts: int
    """How many times the graph was lowered to 16 bits."""
    unresolved: str = ""
    """Why something is still not finite; empty where all is."""


class Repair(Result):
    """The smallest set of modules to leave in high precision so that the accuracy gates hold."""

    modules: dict[str, str] = {}
    """The modules, each with the reason."""
    before: dict[str, float] = {}
    """Accuracy metrics of the whole plan against high precision, on the samples kept for choosing formats."""
    after: dict[str, float] = {}
    """The same without those modules."""
    floors: dict[str, dict[str, float]] = {}
    """`min` and `max` of each metric that had to be reached: the gates with the margin."""
    margin: float
    """The share of the room between gate and high precision that was kept free."""
    evaluations: int
    """Plans that were really run."""
    rows: int
    """Rows that each was run on."""
    unresolved: str = ""
    """Why no set suffices; empty where one does."""
