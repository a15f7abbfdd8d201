"""TensorRT's element types in numpy's words, and the one conversion between a model and its engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtbuild.core.errors import ModelError
from trtbuild.core.tensor_file import Array

_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""TensorRT's DataType as numpy, with the types of ml_dtypes, spells it."""


def numpy_type(name: str, tensor: str) -> np.dtype[Any]:
    """The numpy type of TensorRT's DataType of this name. Raises ModelError where numpy has none."""
    spelled = _NUMPY.get(name)
    if spelled is None:
        raise ModelError(f"{tensor} is {name}, which numpy cannot hold", hint="cast it in the model")
    if spelled in ("bfloat16", "float8_e4m3fn"):
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if spelled == "bfloat16" else ml_dtypes.float8_e4m3fn)
        return dtype
    return np.dtype(spelled)


def as_taken(array: Array, wanted: np.dtype[Any], name: str) -> Array:
    """An input as the engine takes it, C-ordered. 8.6 takes INT32 where the model has INT64: such codes are narrowed.

    Raises ModelError where the type is another, or a number does not fit.
    """
    if array.dtype == np.int64 and wanted == np.int32:
        if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
            raise ModelError(f"{name} holds numbers beyond 32 bits, and this TensorRT takes INT32")
        array = array.astype(np.int32)
    if array.dtype != wanted:
        raise ModelError(f"{name} is {array.dtype}, the engine takes {wanted}")
    return np.asarray(array, order="C")


def as_declared(array: Array, declared: str | None) -> Array:
    """An output in the type that the ONNX model declares, where 8.6 narrowed it to INT32."""
    return array.astype(np.int64) if declared == "int64" and array.dtype == np.int32 else array
