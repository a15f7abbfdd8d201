"""Errors before TensorRT is touched, what its logger said, progress, and types at the border."""

from __future__ import annotations

import numpy as np
import pytest

from trtbuild.backends.tensorrt import building, library
from trtbuild.backends.tensorrt.backend import TensorRT
from trtbuild.backends.tensorrt.element_types import as_declared, as_taken, numpy_type
from trtbuild.backends.tensorrt.library import Messages
from trtbuild.backends.tensorrt.progress import Progress
from trtbuild.core import gpu
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import BackendMissing, ModelError
from trtbuild.core.tensors import Shapes
from trtbuild.stages.tensorrt_options import TensorRTOptions

SHAPES = Shapes(inputs={"x": {"dtype": "float32", "dims": [1]}})


def test_without_a_gpu_nothing_of_tensorrt_is_called(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(gpu, "current", lambda: None)
    with pytest.raises(BackendMissing, match="needs an NVIDIA GPU") as caught:
        TensorRT().compile(OnnxModel(tmp_path), SHAPES, TensorRTOptions(), Engine(tmp_path))
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint
    assert TensorRT().device == "no GPU"


def test_messages_tell_the_last_errors_once() -> None:
    messages = Messages()
    assert messages.essence() == "it gave no reason"
    messages.note("WARNING", "slow")
    assert messages.essence() == "slow"
    for text in ("first", "second", "second", "third\n  line", "fourth"):
        messages.note("ERROR", text)
    assert messages.essence() == "second; third line; fourth"


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Could not find any implementation for node a/Conv", "engine.workspace_mb"),
        ("Unable to load library: libcublasLt.so.12", "engine.tactic_sources"),
        ("OutOfMemory (no further information)", "smaller shapes"),
        ("something new", "the step's log"),
    ],
)
def test_a_failed_build_is_told_in_tensorrts_words_with_what_helps(said: str, hint: str) -> None:
    messages = Messages()
    messages.note("ERROR", said)
    error = building.failed("8.6.0", messages)
    assert said in error.message
    assert hint in error.hint


def test_a_plugin_library_that_does_not_load_is_named() -> None:
    with pytest.raises(ModelError, match=r"libnone\.so cannot be loaded"):
        library.load_plugins(None, None, ["libnone.so"])


def test_progress_tells_the_time_that_is_left_once_a_second() -> None:
    said: list[str] = []
    now = [0.0]
    progress = Progress(said.append, lambda: now[0])
    progress.started("Building", None, 10)
    progress.started("Inner", "Building", 100)
    for step in range(5):
        now[0] += 2
        progress.stepped("Building", step)
        progress.stepped("Building", step)
        progress.stepped("Inner", step)
    progress.finished("Inner")
    progress.finished("Building")
    assert said[0] == "Building: 10 steps"
    assert said[1] == "Building: 1 of 10, about 18 s left"
    assert said[-2] == "Building: 5 of 10, about 10 s left"
    assert said[-1] == "Building: done in 10.0 s"
    assert len(said) == 7


def test_types_are_numpys() -> None:
    assert numpy_type("HALF", "x") == np.float16
    assert numpy_type("BF16", "x").name == "bfloat16"
    assert numpy_type("FP8", "x").itemsize == 1
    with pytest.raises(ModelError, match="x is INT4"):
        numpy_type("INT4", "x")


def test_int64_is_narrowed_where_the_engine_takes_int32_and_widened_again() -> None:
    ids = np.array([[1, -(2**31)]], np.int64)
    taken = as_taken(ids, np.dtype("int32"), "ids")
    assert taken.dtype == np.int32
    assert taken.tolist() == ids.tolist()
    assert as_declared(taken, "int64").dtype == np.int64
    assert as_declared(taken, "int32").dtype == np.int32
    with pytest.raises(ModelError, match="beyond 32 bits"):
        as_taken(np.array([2**31]), np.dtype("int32"), "ids")


def test_an_input_of_another_type_is_refused_and_a_strided_one_is_copied() -> None:
    with pytest.raises(ModelError, match="x is float64, the engine takes float32"):
        as_taken(np.zeros(3), np.dtype("float32"), "x")
    strided = np.arange(6, dtype=np.float32).reshape(2, 3).T
    taken = as_taken(strided, np.dtype("float32"), "x")
    assert taken.flags["C_CONTIGUOUS"]
    assert (taken == strided).all()
    assert as_taken(np.float32(1), np.dtype("float32"), "x").shape == ()
