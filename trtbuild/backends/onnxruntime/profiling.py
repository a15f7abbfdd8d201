"""How long each node of an engine takes, by ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime

from trtbuild.backends.onnxruntime.precision import named_before_fusions
from trtbuild.backends.onnxruntime.sessions import PROVIDERS, settings
from trtbuild.core.layer_times import by_modules
from trtbuild.core.results import LayerTime
from trtbuild.core.tensor_file import Tensors
from trtbuild.graph import document

_KERNEL = "_kernel_time"
"""Behind a node's name in the events that time its kernel."""


def layer_times(file: Path, inputs: Tensors, runs: int, threads: int) -> list[LayerTime]:
    """Median milliseconds of each module's nodes over `runs` calls, after one that is not counted."""
    with tempfile.TemporaryDirectory() as scratch:
        options = settings(threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = onnxruntime.InferenceSession(str(file), options, providers=PROVIDERS)
        for _ in range(1 + runs):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    return times_of(events, modules_of(document.load(file).graph))


def modules_of(graph: ir.Graph) -> dict[str, str]:
    """The module path of each node: by its name, or where a fusion gave it another by that of what it writes."""
    return {
        node.name or "": next((path for path in map(_path, (node.name, node.outputs[0].name)) if path), "")
        for node in graph
    }


def times_of(events: Iterable[dict[str, Any]], modules: Mapping[str, str]) -> list[LayerTime]:
    """The nodes in a profile, those of one module together."""
    spent: dict[str, list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            spent.setdefault(name.removesuffix(_KERNEL), []).append(event["dur"] / 1e3)
    return by_modules(
        ([modules[name]] if modules.get(name) else [], statistics.median(times_ms[1:] or times_ms))
        for name, times_ms in spent.items()
    )


def _path(name: str | None) -> str:
    return named_before_fusions(name or "").rpartition("/")[0]
