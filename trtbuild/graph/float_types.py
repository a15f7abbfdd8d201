"""The float type of one computed tensor, also where the exporter recorded none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from trtbuild.graph.initializers import FLOATS


def float_type(value: ir.Value | None) -> np.dtype[Any] | None:
    """The NumPy type that scales of this tensor have; None where the tensor is no float, or nothing says its type.

    It follows first inputs, whose type most operators' output has, up to the nearest tensor with a recorded type.
    """
    while value is not None:
        if value.dtype is not None:
            return np.dtype(value.dtype.numpy()) if value.dtype in FLOATS else None
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Cast":
            dtype = ir.DataType(node.attributes.get_int("to", 0))
            return np.dtype(dtype.numpy()) if dtype in FLOATS else None
        value = node.inputs[1 if node.op_type == "Where" else 0] if node.inputs else None
    return None
