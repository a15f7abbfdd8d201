"""The roles that ONNX Runtime plays on the CPU."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime

from trtbuild.backends.onnxruntime import precision, profiling, sessions, tactics
from trtbuild.backends.onnxruntime.lowering import lowered, understood
from trtbuild.backends.onnxruntime.tactics import ENGINE_FILE
from trtbuild.core import machine
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.interface import DYNAMIC, Interface, IoTensor, ProfileRange
from trtbuild.core.results import LayerTime
from trtbuild.core.roles import Compiler, Interpreter, Precisions, Runner, Session
from trtbuild.core.tensor_file import Tensors
from trtbuild.core.tensors import Shapes
from trtbuild.graph import document


class OnnxRuntime(Compiler, Runner, Interpreter):
    """ONNX Runtime on the CPU."""

    @property
    def device(self) -> str:
        """The processor's name."""
        return machine.processor()

    def compile(self, model: OnnxModel, shapes: Shapes, options: Any, engine: Engine) -> None:
        """Optimize for this processor; of the tactics whose graphs differ, keep the fastest at the `opt` shapes.

        Raises ModelError where ONNX Runtime refuses the model.
        """
        model = lowered(model, engine.path / "lowered")
        built = {
            tactic: tactics.optimize(model, engine.path / f"tactic{number}", tactic)
            for number, tactic in enumerate(tactics.candidates(model, options.tactics == "measure"))
        }
        best = tactics.fastest(tactics.distinct(built), shapes, options.threads)
        for file in sorted(built[best].parent.iterdir()):
            file.rename(engine.path / file.name)
        for folder in {model.path, *(file.parent for file in built.values())}:
            if folder.is_relative_to(engine.path):
                shutil.rmtree(folder)
        facts = {
            "backend": "onnxruntime",
            "onnxruntime": onnxruntime.__version__,
            "processor": machine.processor(),
            "threads": options.threads or machine.core_count(),
            "tactic": best.name,
        }
        engine.main.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        _interface(document.load(engine.path / ENGINE_FILE).graph, shapes).write(engine.path)

    def interpret(self, model: OnnxModel, samples: Iterable[Tensors]) -> Iterable[Tensors]:
        """Run the graph as it is written, Q/DQ in any type included, without ONNX Runtime's fusions."""
        with tempfile.TemporaryDirectory() as folder:
            session = self.open_model(understood(model, Path(folder)), 0)
        for batch in samples:
            yield session.infer(batch)

    def precisions(self, engine: Engine) -> Precisions:
        """What the engine's own graph says of each product, gathered table and attention."""
        return precision.precisions(document.load(engine.path / ENGINE_FILE).graph)

    def open_model(self, model: OnnxModel, threads: int) -> Session:
        """Load a graph as it is written, never optimized. Raises ModelError where ONNX Runtime refuses it."""
        return sessions.OrtSession(sessions.load(model.main, threads))

    def open(self, engine: Engine, threads: int) -> Session:
        """Load an engine. Raises ModelError where another ONNX Runtime built it, or its file is damaged."""
        facts = json.loads(engine.main.read_text())
        if facts.get("onnxruntime") != onnxruntime.__version__:
            raise ModelError(
                f"{engine.path}: built by ONNX Runtime {facts.get('onnxruntime')}, this is {onnxruntime.__version__}",
                hint="build it again here: its fused operators belong to that version",
            )
        return sessions.OrtSession(sessions.load(engine.path / ENGINE_FILE, threads))

    def layer_times(self, engine: Engine, inputs: Tensors, runs: int, threads: int) -> list[LayerTime]:
        """Median milliseconds of each node of an engine, by ONNX Runtime's profiler."""
        return profiling.layer_times(engine.path / ENGINE_FILE, inputs, runs, threads)


def _interface(graph: ir.Graph, shapes: Shapes) -> Interface:
    """What an engine takes and gives, of its own graph, and the range it was built for."""
    least, usual, greatest = (shapes.at(which) for which in ("min", "opt", "max"))
    ranges = {name: (list(least[name]), list(usual[name]), list(greatest[name])) for name in shapes.inputs}
    return Interface(
        inputs={value.name or "": _tensor(value) for value in graph.inputs if not value.is_initializer()},
        outputs={value.name or "": _tensor(value) for value in graph.outputs},
        profiles=[ProfileRange(name="shapes", ranges=ranges)],
    )


def _tensor(value: ir.Value) -> IoTensor:
    dims = [] if value.shape is None else [dim if isinstance(dim, int) else DYNAMIC for dim in value.shape]
    return IoTensor(dtype="" if value.dtype is None else str(value.dtype.numpy()), dims=dims)
