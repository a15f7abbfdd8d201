"""Write the quantization plan into the graph as Q/DQ nodes."""

from __future__ import annotations

from typing import Literal, NamedTuple

from trtbuild.core.artifacts import OnnxModel, QuantizationPlan
from trtbuild.core.dialects import Dialect
from trtbuild.core.placement import PlacementChoice
from trtbuild.core.results import Coverage, OperandRanges
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options


class InsertOptions(Options):
    """Where the quantization goes."""

    embeddings: Literal["high", "int8"] = "high"
    """`int8` stores embedding tables as INT8 codes with one scale a column, and gathers codes."""
    exclude: list[str] = []
    """Modules to leave in high precision: path patterns (`*` and `?`), or `class:Conv2d` for all of a class."""
    include: list[str] = []
    """Modules to quantize although they stay in high precision by default, by the same patterns."""
    attention: Literal["auto", "high", "int8", "fp8"] = "auto"
    """The attention's own products (softmax output included); `auto` follows formats with FP8 activations and leaves
    the others in high precision."""
    residual: Literal["high", "int8"] = "high"
    """`int8` quantizes what skips the layers of residual additions too: a compiler that fuses the addition into an
    integer kernel then converts nothing on the way. On convolution networks it often decides whether INT8 pays."""


class Inserted(NamedTuple):
    """The quantized graph, and how much of what was asked it carries."""

    model: OnnxModel
    coverage: Coverage


@stage(version=5)
def insert(
    model: OnnxModel,
    plan: QuantizationPlan,
    ranges: OperandRanges | None,
    options: InsertOptions,
    dialect: Dialect,
    work: Workspace,
) -> Inserted:
    """Insert Q/DQ nodes by module path."""
    return _inserted(model, plan, ranges, options, dialect, work, None)


@stage(version=2)
def insert_placed(
    model: OnnxModel,
    plan: QuantizationPlan,
    ranges: OperandRanges | None,
    placement: PlacementChoice,
    options: InsertOptions,
    dialect: Dialect,
    work: Workspace,
) -> Inserted:
    """Insert Q/DQ nodes where each block is fastest."""
    return _inserted(model, plan, ranges, options, dialect, work, placement)


def _inserted(
    model: OnnxModel,
    plan: QuantizationPlan,
    ranges: OperandRanges | None,
    options: InsertOptions,
    dialect: Dialect,
    work: Workspace,
    placement: PlacementChoice | None,
) -> Inserted:
    from trtbuild.core.quantization import Plan  # numpy and the ONNX floor are heavy; a plan must not load them
    from trtbuild.graph import document, insertion

    graph = document.load(model.main)
    coverage = insertion.insert(
        graph,
        Plan.read(plan),
        embeddings=options.embeddings,
        exclude=options.exclude,
        include=options.include,
        attention=options.attention,
        residual=options.residual,
        ranges=None if ranges is None else ranges.amax,
        placement=placement,
        dialect=dialect,
    )
    quantized = work.new(OnnxModel)
    document.save(graph, quantized)
    model.give_companions(quantized.path)
    return Inserted(quantized, coverage)
