"""One table says how a graph is written for a target."""

from __future__ import annotations

import pytest

from trtbuild.core.dialects import ONNX_RUNTIME, TENSORRT, TENSORRT_8, TENSORRT_10, TENSORRT_11, dialect_of
from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import FORMATS
from trtbuild.core.legality import Legal, legality, target
from trtbuild.core.opsets import greatest_opset


@pytest.mark.parametrize(
    ("backend", "version", "dialect"),
    [
        ("onnxruntime", None, ONNX_RUNTIME),
        ("onnxruntime", "1.31", ONNX_RUNTIME),
        ("tensorrt", None, TENSORRT),
        ("tensorrt", "8.6", TENSORRT_8),
        ("tensorrt", "8.6.1.6", TENSORRT_8),
        ("tensorrt", "10.0", TENSORRT_10),
        ("tensorrt", "10.16.1.11", TENSORRT_10),
        ("tensorrt", "11.4", TENSORRT_11),
        ("tensorrt", "12.0", TENSORRT_11),
    ],
)
def test_a_version_has_a_dialect(backend: str, version: str | None, dialect) -> None:
    assert dialect_of(backend, version) == dialect


@pytest.mark.parametrize("version", ["8.5.3", "7.2", "9.1", "new"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(RecipeError, match="TensorRT"):
        dialect_of("tensorrt", version)
    with pytest.raises(RecipeError, match="no backend"):
        dialect_of("openvino")


@pytest.mark.parametrize(
    ("dialect", "where"),
    [
        (ONNX_RUNTIME, target("onnxruntime")),
        (TENSORRT_8, target("tensorrt", "8.6")),
        (TENSORRT_10, target("tensorrt", "10.16")),
        (TENSORRT_11, target("tensorrt", "11.4")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_formats_of_a_dialect_are_those_that_are_legal_for_linears(dialect, where) -> None:
    assert set(dialect.formats) == {form for form in FORMATS if isinstance(legality(form, "linear", where), Legal)}


def test_opsets_agree_with_those_of_legality() -> None:
    assert TENSORRT_8.opset == greatest_opset((8, 6))
    assert TENSORRT_10.opset == greatest_opset((10, 16))
    assert TENSORRT_11.opset == greatest_opset((11, 4))
