"""FP32 to 16 bits where that is safe."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Literal

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.roles import Caster
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options

if TYPE_CHECKING:
    import onnx_ir as ir


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

    raw, lowered = work.new(OnnxModel, f"{name}.raw"), work.new(OnnxModel, name)
    kept = pinning.pinned(document.load(model.main).graph, options.keep_fp32) if options.keep_fp32 else []
    layout = KvCache.of(model.path)
    if layout is None:
        caster.cast(model, options.precision, options.keep_io_types, raw.main, kept)
        graph = document.load(raw.main)
        canonical.canonicalize(graph)
    else:
        graph = _lowered_decoder(model, layout, options, caster, raw, kept)
        model.give_companions(lowered.path)
    document.save(graph, lowered)
    shutil.rmtree(raw.path)
    return lowered


def _lowered_decoder(
    model: OnnxModel, layout: KvCache, options: AutocastOptions, caster: Caster, raw: OnnxModel, kept: list[str]
) -> ir.Model:
    """The same, for a caster that knows no operators of a cache: it sees ordinary ones in their place."""
    from trtbuild.graph import canonical, document
    from trtbuild.graph.always_float32 import always_float32
    from trtbuild.graph.kv_cache import stand_in

    graph = document.load(model.main)
    kept = [*kept, *(name for name in always_float32(graph.graph) if name not in kept)]
    stand_in.conceal(graph, layout)
    concealed = OnnxModel(raw.path / "concealed")
    concealed.path.mkdir()
    document.save(graph, concealed)
    caster.cast(concealed, options.precision, options.keep_io_types, raw.main, kept)
    lowered = document.load(raw.main)
    canonical.canonicalize(lowered)
    stand_in.reveal(lowered, document.load(model.main), layout)
    return lowered
