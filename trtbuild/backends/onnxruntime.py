"""ONNX Runtime as compiler and runner: a full backend, and the default where no TensorRT with a GPU is found.

An engine here is the model after ONNX Runtime's own optimizer, fused for this processor and saved, so that it loads
without optimizing again. Fusions do not always pay (the CPU's SkipLayerNormalization is several times slower than the
Add and LayerNormalization it replaces), so the compiler builds the candidates and times them, as TensorRT times its
tactics.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from trtbuild.core import machine
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Compiler, Interpreter, Runner, Session
from trtbuild.core.tensor_file import Tensors
from trtbuild.core.tensors import Shapes
from trtbuild.graph import document
from trtbuild.graph.unsigned import use_unsigned_activations

ENGINE_FILE = "engine.onnx"
_EXTERNAL_ABOVE_BYTES = 1 << 30
_PROVIDERS = ["CPUExecutionProvider"]


@dataclass(frozen=True)
class _Tactic:
    """One way to fuse the graph."""

    name: str
    disabled: tuple[str, ...]
    """Optimizers of ONNX Runtime, by its own names, that this tactic leaves out."""


_TACTICS = (
    _Tactic("all fusions", ()),
    _Tactic("norms unfused", ("SkipLayerNormFusion",)),
)


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
        tactics = _TACTICS if options.tactics == "measure" else _TACTICS[:1]
        model = _lowered(model, engine.path / "lowered")
        built = {
            tactic: _optimize(model, engine.path / f"tactic{number}", tactic) for number, tactic in enumerate(tactics)
        }
        graphs = {_operators(file): tactic for tactic, file in reversed(built.items())}
        candidates = [tactic for tactic in tactics if tactic in graphs.values()]
        best = _fastest({tactic: built[tactic] for tactic in candidates}, shapes, options.threads)
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

    def interpret(self, model: OnnxModel, samples: Iterable[Tensors]) -> Iterable[Tensors]:
        """Run the graph as it is written, without ONNX Runtime's fusions."""
        session = _OrtSession(_session(model.main, 0))
        for batch in samples:
            yield session.infer(batch)

    def precisions(self, engine: Engine) -> dict[str, str]:
        """The precision of each matrix product and each gathered table, by node name."""
        graph = document.load(engine.path / ENGINE_FILE).graph
        found = {}
        for node in graph:
            if precision := _precision(node):
                found[node.name or ""] = precision
        return found

    def open(self, engine: Engine, threads: int) -> Session:
        """Load an engine. Raises ModelError where another ONNX Runtime built it, or its file is damaged."""
        facts = json.loads(engine.main.read_text())
        if facts.get("onnxruntime") != onnxruntime.__version__:
            raise ModelError(
                f"{engine.path}: built by ONNX Runtime {facts.get('onnxruntime')}, this is {onnxruntime.__version__}",
                hint="build it again here: its fused operators belong to that version",
            )
        return _OrtSession(_session(engine.path / ENGINE_FILE, threads))


class _OrtSession(Session):
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [output.name for output in session.get_outputs()]

    def infer(self, inputs: Tensors) -> Tensors:
        assert self._session, "the session is closed"
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def close(self) -> None:
        self._session = None


def _lowered(model: OnnxModel, folder: Path) -> OnnxModel:
    """The model in the form that this processor's kernels want; the model itself where that is no other."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return model
    graph = document.load(model.main)
    if not use_unsigned_activations(graph):
        return model
    folder.mkdir()
    document.save(graph, lowered := OnnxModel(folder))
    return lowered


def _optimize(model: OnnxModel, folder: Path, tactic: _Tactic) -> Path:
    folder.mkdir()
    file = folder / ENGINE_FILE
    options = _options(threads=0)
    options.optimized_model_filepath = str(file)
    if model.size_bytes > _EXTERNAL_ABOVE_BYTES:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{ENGINE_FILE}.data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        onnxruntime.InferenceSession(
            str(model.main), options, providers=_PROVIDERS, disabled_optimizers=list(tactic.disabled)
        )
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        raise ModelError(f"ONNX Runtime refuses the model: {_essence(error)}") from error
    return file


def _fastest(files: dict[_Tactic, Path], shapes: Shapes, threads: int) -> _Tactic:
    """Time one call each in turn, on ones of the `opt` shapes: latency does not depend on values, and 1 is a
    legal index."""
    if len(files) == 1:
        return next(iter(files))
    lengths = shapes.at("opt")
    inputs = {name: np.ones(lengths[name], dtype=spec.dtype) for name, spec in shapes.inputs.items()}
    sessions = {tactic: _session(file, threads) for tactic, file in files.items()}
    times: dict[_Tactic, list[float]] = {tactic: [] for tactic in files}
    for round_number in range(6):
        for tactic, session in sessions.items():
            began = time.perf_counter()
            try:
                session.run(None, inputs)
            except Exception as error:  # as above
                raise ModelError(f"the built engine fails at the opt shapes {lengths}: {_essence(error)}") from error
            if round_number:
                times[tactic].append(time.perf_counter() - began)
    for tactic, spent in times.items():
        print(f"{tactic.name}: {1e3 * statistics.median(spent):.2f} ms")
    return min(times, key=lambda tactic: statistics.median(times[tactic]))


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load a graph and run it as it is written."""
    options = _options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=_PROVIDERS)
    except Exception as error:  # as above
        raise ModelError(f"{file}: ONNX Runtime cannot load it: {_essence(error)}") from error


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or machine.core_count()
    options.log_severity_level = 3
    # Idle threads of one session must not spin while another is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _operators(file: Path) -> tuple[str, ...]:
    return tuple(sorted(node.op_type for node in document.load(file).graph))


_INTEGER_PRODUCTS = {"MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul"}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}


def _precision(node: Any) -> str | None:
    """How a node multiplies: `int8`, `int8 weights` (dequantized on the fly), or its float type."""
    if node.op_type in _INTEGER_PRODUCTS:
        return "int8"
    if node.op_type == "MatMulNBits":
        return "int8 weights"
    if node.op_type == "Gather":
        table = node.inputs[0]
        return "int8 table" if table is not None and table.dtype is not None and table.dtype.name == "INT8" else None
    if node.op_type not in _PRODUCTS:
        return None
    producers = {value.producer().op_type for value in _operands(node) if value.producer() is not None}
    if "DequantizeLinear" in producers:
        return "int8 weights"
    dtype = next((value.dtype for value in (*_operands(node), *node.outputs) if value.dtype is not None), None)
    return (
        {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}.get(dtype.name, "float")
        if dtype
        else "float"
    )


def _operands(node: Any) -> Iterator[Any]:
    return (value for value in node.inputs[:2] if value is not None)


def _essence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + " ..."
