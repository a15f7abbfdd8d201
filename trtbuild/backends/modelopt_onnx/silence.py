"""ModelOpt runs here: its prints, log handlers, temporary files and its compiler stay inside."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization.calibrate import CalibrationDataReader

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError, TrtbuildError
from trtbuild.core.tensor_file import Array, Tensors

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")  # about Python and library versions it has not been tested with
    from modelopt.onnx.quantization.quantize import quantize

EXTENSIONS = "modelopt.onnx.quantization.extensions"
"""Where ModelOpt packs two INT4 codes into a byte, with a C++ module that it compiles beside its own files, on first
use, if there is a compiler and `cppimport`."""

log = logging.getLogger(__name__)


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Samples as ModelOpt asks for them: batch by batch, of any shapes, again from the start after `rewind`."""

    def __init__(self, samples: Sequence[Tensors]) -> None:
        self._samples = samples
        self.rewind()

    def rewind(self) -> None:
        """Start again."""
        self._rest = iter(self._samples)

    def get_next(self) -> Tensors | None:
        """The next batch, or None after the last."""
        return next(self._rest, None)

    def get_first(self) -> Tensors:
        """The first batch, whichever comes next."""
        first: Tensors = self._samples[0]
        return first


def run(model: OnnxModel, samples: Sequence[Tensors], folder: Path, *, mode: str, method: str, **settings: Any) -> Path:
    """Quantize a private copy of a model with `modelopt.onnx.quantization`; returns the quantized file in `folder`.

    `model` is overwritten: ModelOpt infers shapes into it. Raises ModelError where ModelOpt fails.
    """
    target = folder / "quantized.onnx"
    said = io.StringIO()
    try:
        with _private_temporary_files(folder), _captured(said), _uncompiled():
            quantize(
                str(model.main),
                quantize_mode=mode,
                calibration_method=method,
                calibration_data_reader=Reader(samples),  # without one ModelOpt makes up random data
                calibration_eps=["cpu"],  # a fresh list: ModelOpt writes into its default
                output_path=str(target),
                high_precision_dtype="fp32",
                disable_mha_qdq=True,  # products without weights are not modules
                enable_gemv_detection_for_trt=False,  # looks at the first batch's length, not at the recipe's
                **settings,
            )
    except TrtbuildError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"ModelOpt cannot quantize the graph in {mode}: {lines[0] if lines else type(error).__name__}",
            hint="exclude the part of the model that it names, or quantize the PyTorch model instead",
        ) from error
    finally:
        log.debug("modelopt: %s", said.getvalue())
    return target


def exactly(names: Sequence[str]) -> list[str]:
    """Patterns that match these node names only; ModelOpt takes names for regular expressions."""
    return [f"{re.escape(name)}$" for name in names]


@contextlib.contextmanager
def _private_temporary_files(folder: Path) -> Iterator[None]:
    """ModelOpt leaves files of `tempfile.mkstemp` behind when it fails: they go where the step's files go."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _captured(said: io.StringIO) -> Iterator[None]:
    """Python's stdout and stderr, and ModelOpt's own log, which would reach the application's handlers as errors."""
    logger = logging.getLogger("modelopt.onnx")

    def keep(record: logging.LogRecord) -> bool:
        said.write(f"{record.getMessage()}\n")
        return False

    logger.addFilter(keep)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(keep)
        for handler in logger.handlers[:]:  # tied to the stdout of the moment
            logger.removeHandler(handler)


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """The INT4 packing in NumPy instead."""
    before = sys.modules.get(EXTENSIONS)
    instead = types.ModuleType(EXTENSIONS)
    instead.round_and_pack_ext = types.SimpleNamespace(round_and_pack=_round_and_pack)  # type: ignore[attr-defined]
    sys.modules[EXTENSIONS] = instead
    try:
        yield
    finally:
        del sys.modules[EXTENSIONS]
        if before is not None:
            sys.modules[EXTENSIONS] = before


def _round_and_pack(signed: bool, values: Array, _: int, packed: Array, length: int) -> int:
    """Two codes a byte, the first in the low half."""
    codes = np.clip(np.rint(values), *((-8, 7) if signed else (0, 15))).astype(np.int8)
    packed[:] = (codes[1::2] << 4) | (codes[0::2] & 0x0F)
    return length
