from __future__ import annotations

import pytest

from trtbuild.core.cache_legality import refusal
from trtbuild.core.errors import RecipeError
from trtbuild.core.kv_cache import CacheMode


@pytest.mark.parametrize("mode", ["float", "int8", "int8_static", "fp8"])
def test_onnx_runtime_and_a_hopper_run_every_mode(mode: CacheMode) -> None:
    assert refusal(mode, "onnxruntime", None, None) is None
    assert refusal(mode, "tensorrt", "10.9", (9, 0)) is None
    assert refusal(mode, "tensorrt", None, None) is None


def test_tensorrt_11_has_an_fp16_cache_of_its_own() -> None:
    assert refusal("float", "tensorrt", "11.4", (7, 5)) is None


@pytest.mark.parametrize(
    ("mode", "version", "sm", "says", "hint"),
    [
        ("float", "8.6", (9, 0), "a KV cache needs TensorRT 10.9", "onnxruntime"),
        ("int8", "10.8", None, "the target is TensorRT 10.8", "10.9"),
        ("fp8", "11.4", (8, 0), "mode fp8 needs a GPU of SM 8.9", "kv_cache: int8"),
        ("float", "10.9", (7, 5), "mode float needs a GPU of SM 8.0", "onnxruntime"),
        ("int8", "11.4", (7, 5), "mode int8 needs a GPU of SM 8.0", "onnxruntime"),
    ],
)
def test_what_cannot_run_names_what_can(
    mode: CacheMode, version: str, sm: tuple[int, int] | None, says: str, hint: str
) -> None:
    found = refusal(mode, "tensorrt", version, sm)
    assert found is not None
    assert says in found.message
    assert hint in found.hint


def test_a_version_that_is_none_is_an_error() -> None:
    with pytest.raises(RecipeError, match="is no version of TensorRT"):
        refusal("int8", "tensorrt", "newest", None)
