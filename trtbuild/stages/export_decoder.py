"""A decoder of transformers to ONNX, with a cache for a fixed number of tokens and everything that its text needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Exporter, Loader
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.tensors import Shapes
from trtbuild.stages.export import ExportOptions

TOKENIZER = "tokenizer.json"
COMPANIONS = (TOKENIZER, "tokenizer_config.json", "generation_config.json", "config.json", "chat_template.jinja")
"""Files of a model's folder that its text needs beside the engine."""


class ExportDecoderOptions(ExportOptions):
    """How a decoder is written as ONNX."""

    capacity: int = Field(ge=2)
    """Greatest number of tokens in a row, prompt and generated together."""
    tokenizer: bool = True
    """Whether the model's folder must have a `tokenizer.json`."""


@stage(version=1)
def export_decoder(
    source: PythonSource | HuggingFaceSource,
    shapes: Shapes,
    options: ExportDecoderOptions,
    loader: Loader,
    exporter: Exporter,
    work: Workspace,
) -> OnnxModel:
    """Export the decoder to ONNX with an FP16 cache.

    Raises ModelError where its attention is of a kind that has no cache, or it knows fewer positions than the cache
    is for, or its folder has no tokenizer.
    """
    from trtbuild.graph import canonical, document  # the ONNX floor is heavy; a plan must not load it
    from trtbuild.graph.kv_cache.attach import attach

    model = work.new(OnnxModel)
    if isinstance(source, HuggingFaceSource):
        _take_along(source.folder, model.path, needs_tokenizer=options.tokenizer)
    raw = work.path / "raw.onnx"
    exporter.export(loader.load(source), shapes, options.opset, raw)
    graph = document.load(raw)
    canonical.canonicalize(graph)
    document.check_interface(graph, shapes, source="the exported model")
    attach(graph, options.capacity, "float16").write(model.path)
    document.save(graph, model)
    return model


def _take_along(folder: Path, target: Path, *, needs_tokenizer: bool) -> None:
    if needs_tokenizer and not (folder / TOKENIZER).is_file():
        raise ModelError(f"{folder} has no {TOKENIZER}", hint=NO_TOKENIZER_HINT)
    for name in COMPANIONS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


NO_TOKENIZER_HINT = (
    "let transformers write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder); for a model whose "
    "tokens are no text, set decoder.tokenizer to false"
)
