"""PyTorch to ONNX, or an ONNX file taken in: either way one canonical FP32 model."""

from __future__ import annotations

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.roles import Exporter, Loader
from trtbuild.core.sources import HuggingFaceSource, OnnxSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options


class ExportOptions(Options):
    """How the model is written as ONNX."""

    opset: int = Field(default=21, ge=18, le=25)
    """ONNX opset version. 21 is the first with INT4 and with blocked scales."""


@stage(version=1)
def export(
    source: PythonSource | HuggingFaceSource,
    shapes: Shapes,
    options: ExportOptions,
    loader: Loader,
    exporter: Exporter,
    work: Workspace,
) -> OnnxModel:
    """Export the model to ONNX."""
    from trtbuild.graph import canonical, document  # the ONNX floor is heavy; a plan must not load it

    model = work.new(OnnxModel)
    raw = work.path / "raw.onnx"
    exporter.export(loader.load(source), shapes, options.opset, raw)
    graph = document.load(raw)
    canonical.canonicalize(graph)
    document.check_interface(graph, shapes, source="the exported model")
    document.save(graph, model)
    return model


@stage(version=1)
def adopt(source: OnnxSource, shapes: Shapes, work: Workspace) -> OnnxModel:
    """Check the ONNX file and take it in."""
    from trtbuild.graph import canonical, document

    model = work.new(OnnxModel)
    graph = document.load(source.file)
    canonical.canonicalize(graph)
    document.check_interface(graph, shapes, source=str(source.file))
    document.save(graph, model)
    return model
