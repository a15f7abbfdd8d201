"""ONNX to engine."""

from __future__ import annotations

from typing import Literal, NamedTuple

from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.results import Coverage
from trtbuild.core.roles import Compiler
from trtbuild.core.stage import Resources, Workspace, stage
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options


class BuildOptions(Options):
    """How the engine is built."""

    threads: int = 0
    """Threads the engine may use for one call; 0 means all cores."""
    tactics: Literal["measure", "default"] = "measure"
    """`measure` builds the candidates that differ in fusions and keeps the fastest here; `default` takes the first."""


class Built(NamedTuple):
    """The engine, and the coverage with what really runs."""

    engine: Engine
    coverage: Coverage


@stage(version=1, resources=Resources(exclusive=True))
def build(
    model: OnnxModel,
    coverage: Coverage | None,
    shapes: Shapes,
    options: BuildOptions,
    compiler: Compiler,
    work: Workspace,
) -> Built:
    """Build an engine for this machine."""
    engine = work.new(Engine)
    compiler.compile(model, shapes, options, engine)
    return Built(engine, _with_precisions(coverage or Coverage(), compiler.precisions(engine)))


RUNS_IN = {
    "int8": ("int8",),
    "int8_sq": ("int8",),
    "w8a16": ("int8 weights",),
    "embedding_int8": ("int8 table",),
}
"""What an engine must say of a layer for it to have run as its format asks."""


def _with_precisions(coverage: Coverage, precisions: dict[str, str]) -> Coverage:
    """Fill in the third column: the precision in which the engine runs each module's matrix product."""
    by_module: dict[str, str] = {}
    for node, precision in precisions.items():
        by_module.setdefault(node.rsplit("/", 1)[0], precision)
    layers = []
    for layer in coverage.layers:
        ran = by_module.get(layer.module, "")
        reason = layer.reason
        wanted = RUNS_IN[layer.format]
        if layer.inserted and not ran:
            reason = "the engine has no node of this name: it was fused away or renamed"
        elif layer.inserted and ran not in wanted:
            reason = f"the engine runs it in {ran}, {layer.format} means {' or '.join(wanted)}: no such kernel took it"
        layers.append(layer.model_copy(update={"ran": ran, "reason": reason}))
    return coverage.model_copy(update={"layers": layers})
