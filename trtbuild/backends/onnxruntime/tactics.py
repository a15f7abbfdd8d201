"""Ways to fuse a graph. Fusions do not always pay, so the candidates are built and timed, as TensorRT times its own."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from trtbuild.backends.onnxruntime.sessions import PROVIDERS, OrtSession, essence, load, settings
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.tensor_file import Tensors
from trtbuild.core.tensors import Shapes
from trtbuild.graph import document

ENGINE_FILE = "engine.onnx"
_EXTERNAL_ABOVE_BYTES = 1 << 30

WINS = 3
"""Rounds that a tactic must win to be taken."""

_SESSION = {
    # By default products of weights alone round their inputs to INT8 as well: nobody asked for that. 1 is FP32.
    "session.qdq_matmulnbits_accuracy_level": "1",
    # One scale a channel is repeated for each block: the largest block repeats it least.
    "session.qdq_matmulnbits_block_size": "-1",
}


@dataclass(frozen=True)
class Tactic:
    """One way to fuse the graph."""

    name: str
    disabled: tuple[str, ...]
    """Optimizers of ONNX Runtime, by its own names, that this tactic leaves out."""


_FUSED = Tactic("all fusions", ())
_NORMS_UNFUSED = Tactic("norms unfused", ("SkipLayerNormFusion",))
"""The CPU's SkipLayerNormalization is several times slower than the Add and LayerNormalization it replaces."""
_WEIGHTS_APART = Tactic(
    "norms unfused, weights dequantized apart", ("SkipLayerNormFusion", "QDQSelectorActionTransformer")
)
"""A float product of a dequantized weight beats the block-wise product on some shapes."""
_NO_GEMM = "MatMulAddFusion"
"""Joins MatMul and Add to a Gemm, which has no kernel for a quantized weight."""


def candidates(model: OnnxModel, measure: bool) -> list[Tactic]:
    """The tactics that are worth building for a graph; the first is the default."""
    operators = [node.op_type for node in document.load(model.main).graph]
    tactics = [_FUSED]
    if measure:
        tactics.append(_NORMS_UNFUSED)
    if "DequantizeLinear" not in operators:
        return tactics
    if measure and "QuantizeLinear" not in operators:
        tactics.append(_WEIGHTS_APART)
    return [Tactic(tactic.name, (*tactic.disabled, _NO_GEMM)) for tactic in tactics]


def optimize(model: OnnxModel, folder: Path, tactic: Tactic) -> Path:
    """The file of the model as ONNX Runtime fuses it, in `folder`. Raises ModelError where it refuses the model.

    Weights stay as small as they came: constant folding leaves DequantizeLinear alone.
    """
    folder.mkdir()
    file = folder / ENGINE_FILE
    options = settings(threads=0)
    options.optimized_model_filepath = str(file)
    for key, entry in _SESSION.items():
        options.add_session_config_entry(key, entry)
    if model.size_bytes > _EXTERNAL_ABOVE_BYTES:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{ENGINE_FILE}.data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        onnxruntime.InferenceSession(
            str(model.main), options, providers=PROVIDERS, disabled_optimizers=list(tactic.disabled)
        )
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        raise ModelError(f"ONNX Runtime refuses the model: {essence(error)}") from error
    return file


def distinct(built: dict[Tactic, Path]) -> dict[Tactic, Path]:
    """The first of the tactics that gave each graph."""
    graphs = {_operators(file): tactic for tactic, file in reversed(built.items())}
    return {tactic: file for tactic, file in built.items() if tactic in graphs.values()}


def fastest(files: dict[Tactic, Path], shapes: Shapes, threads: int) -> Tactic:
    """The first to win WINS rounds, in each of which every tactic is called once, on ones of the `opt` shapes: latency
    does not depend on values, and 1 is a legal index."""
    if len(files) == 1:
        return next(iter(files))
    lengths = shapes.at("opt")
    inputs = {name: np.ones(lengths[name], dtype=spec.numpy_dtype) for name, spec in shapes.inputs.items()}
    sessions = {tactic: OrtSession(load(file, threads)) for tactic, file in files.items()}
    wins: Counter[Tactic] = Counter()
    for session in sessions.values():
        _seconds(session, inputs)  # the first call allocates
    while max(wins.values(), default=0) < WINS:
        spent = {tactic: _seconds(session, inputs) for tactic, session in sessions.items()}
        wins[min(spent, key=lambda tactic: spent[tactic])] += 1
        print(", ".join(f"{tactic.name}: {1e3 * seconds:.2f} ms" for tactic, seconds in spent.items()))
    return max(wins, key=lambda tactic: wins[tactic])


def _seconds(session: OrtSession, inputs: Tensors) -> float:
    began = time.perf_counter()
    try:
        session.infer(inputs)
    except Exception as error:  # as above
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        raise ModelError(f"the built engine fails at the opt shapes {shapes}: {essence(error)}") from error
    return time.perf_counter() - began


def _operators(file: Path) -> tuple[str, ...]:
    return tuple(sorted(node.op_type for node in document.load(file).graph))
