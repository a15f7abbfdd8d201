"""A graph loaded into ONNX Runtime as it is written, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from trtbuild.core import machine
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Session
from trtbuild.core.tensor_file import Tensors

PROVIDERS = ["CPUExecutionProvider"]
FLOAT8E4M3FN = 17
"""`onnx.TensorProto.FLOAT8E4M3FN`, as ONNX Runtime wants to be told it."""


_FP8 = "tensor(float8e4m3fn)"


class OrtSession(Session):
    """A loaded graph. NumPy has no FP8: inputs and outputs of that type are the bytes of their codes, uint8."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._in_bytes = {given.name for given in session.get_inputs() if given.type == _FP8}

    def infer(self, inputs: Tensors) -> Tensors:
        """Outputs by name for one set of inputs."""
        assert self._session, "the session is closed"
        if self._in_bytes:
            found = self._session.run_with_ort_values(self._outputs, self._values(inputs))
            return {name: value.numpy() for name, value in zip(self._outputs, found, strict=True)}
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def _values(self, inputs: Tensors) -> dict[str, onnxruntime.OrtValue]:
        """Inputs as ONNX Runtime's own values, which alone can be told that bytes are FP8."""
        make = onnxruntime.OrtValue
        return {
            name: make.ortvalue_from_numpy_with_onnx_type(array.view(np.uint8), FLOAT8E4M3FN)
            if name in self._in_bytes
            else make.ortvalue_from_numpy(array)
            for name, array in inputs.items()
        }

    def close(self) -> None:
        """Free what it holds."""
        self._session = None


def load(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load a graph without optimizing it, for `threads` threads (0: one a core). Raises ModelError."""
    options = settings(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=PROVIDERS)
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        raise ModelError(f"{file}: ONNX Runtime cannot load it: {essence(error)}") from error


def settings(threads: int) -> onnxruntime.SessionOptions:
    """What every session of ours has in common."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or machine.core_count()
    options.log_severity_level = 3
    # Idle threads of one session must not spin while another is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def essence(error: Exception) -> str:
    """What an exception of ONNX Runtime says, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + " ..."
