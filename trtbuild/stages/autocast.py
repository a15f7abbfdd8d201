"""FP32 to 16 bits where that is safe."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.roles import Caster
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options


class AutocastOptions(Options):
    """How the graph is lowered to 16 bits."""

    precision: Literal["fp16", "bf16"] = "fp16"
    """The 16-bit type."""
    keep_io_types: bool = True
    """Whether inputs and outputs keep their FP32 types."""


@stage(version=1)
def autocast(model: OnnxModel, options: AutocastOptions, caster: Caster, work: Workspace) -> OnnxModel:
    """Lower the graph to 16 bits where that is safe."""
    from trtbuild.graph import canonical, document

    raw = work.path / "raw.onnx"
    caster.cast(model, options.precision, options.keep_io_types, raw)
    graph = document.load(raw)
    canonical.canonicalize(graph)
    lowered = work.new(OnnxModel)
    document.save(graph, lowered)
    return lowered
