"""FP32 to 16 bits where that is safe."""

from __future__ import annotations

import shutil
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
    keep_fp32: list[str] = []
    """Nodes that stay in FP32: patterns (`*` and `?`) of node names or module paths."""


@stage(version=2)
def autocast(model: OnnxModel, options: AutocastOptions, caster: Caster, work: Workspace) -> OnnxModel:
    """Lower the graph to 16 bits where that is safe.

    Raises ModelError for a pattern of `keep_fp32` that matches nothing.
    """
    return lower(model, options, caster, work, "lowered")


def lower(model: OnnxModel, options: AutocastOptions, caster: Caster, work: Workspace, name: str) -> OnnxModel:
    """The lowered graph in a folder of that name; nothing else stays behind."""
    from trtbuild.graph import canonical, document, pinning

    raw = work.new(OnnxModel, f"{name}.raw")
    kept = pinning.pinned(document.load(model.main).graph, options.keep_fp32) if options.keep_fp32 else []
    caster.cast(model, options.precision, options.keep_io_types, raw.main, kept)
    graph = document.load(raw.main)
    canonical.canonicalize(graph)
    lowered = work.new(OnnxModel, name)
    document.save(graph, lowered)
    shutil.rmtree(raw.path)
    return lowered
