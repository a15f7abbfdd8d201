"""The graph in the form that the target's parser reads; it computes the same function."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.dialects import TENSORRT_8, Dialect
from trtbuild.core.errors import ModelError
from trtbuild.graph import document, tensorrt86


def lowered(
    model: OnnxModel, graph: ir.Model, dialect: Dialect, folder: Path, plugins: Collection[str] = ()
) -> OnnxModel:
    """The model to parse: rewritten into `folder`, or the model itself where the target reads it as it is.

    `graph` is the model as read from disk, changed in place; `plugins` are operators that plugins take. Raises
    ModelError where the target cannot read it.
    """
    if dialect == TENSORRT_8:
        tensorrt86.lower(graph, plugins=plugins)
        folder.mkdir()
        written = OnnxModel(folder)
        document.save(graph, written)
        return written
    opset = graph.opset_imports.get("", 0)
    if dialect.opset is not None and opset > dialect.opset:
        raise ModelError(
            f"{dialect.name} reads opsets up to {dialect.opset}, and the graph has {opset}",
            hint=f"export: {{opset: {dialect.opset}}}",
        )
    return model


def discard(model: OnnxModel, folder: Path) -> None:
    """Remove what `lowered` wrote, if it wrote anything."""
    if model.path == folder:
        shutil.rmtree(folder)
