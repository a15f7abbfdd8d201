"""What TensorRT's builder asks of a quickly deployable plugin, asked by `python -m tests.tensorrt_api.quick_plugins`.

The plugins are ours, and so is nothing else: NVIDIA's own template (`tensorrt.plugin._plugin_class`) stands between, as
in a build. Only the symbols are replaced, by numbers that remember whether a network fixes them, because those of
TensorRT need its libraries. Reads cases as JSON from standard input, writes what each plugin answered.
"""

from __future__ import annotations

import hashlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt  # by which name its own modules import it

import tensorrt_bindings.plugin as trtp  # noqa: E402
from tensorrt_bindings.plugin import _lib, _tensor  # noqa: E402

from trtbuild.core.gpu import Device  # noqa: E402
from trtbuild.plugins import glue  # noqa: E402

OPERATIONS = {
    trt.DimensionOperation.SUM: lambda a, b: a + b,
    trt.DimensionOperation.SUB: lambda a, b: a - b,
    trt.DimensionOperation.PROD: lambda a, b: a * b,
    trt.DimensionOperation.MAX: max,
    trt.DimensionOperation.MIN: min,
    trt.DimensionOperation.FLOOR_DIV: lambda a, b: a // b,
    trt.DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
}
ATTRIBUTE_FIELDS = {float: (np.float32, "FLOAT32"), int: (np.int32, "INT32")}
"""As the ONNX parser hands them over."""


class Dimension:
    """An `IDimensionExpr` whose value is known to the test, and to the plugin only where it is constant."""

    def __init__(self, value: int, constant: bool) -> None:
        self.value, self.constant = value, constant

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        assert self.constant, "a plugin asked for a length that only calls decide"
        return self.value


class ExprBuilder:
    """An `IExprBuilder` over them."""

    def constant(self, value: int) -> Dimension:
        return Dimension(value, True)

    def operation(self, kind: Any, a: Dimension, b: Dimension) -> Dimension:
        return Dimension(OPERATIONS[kind](a.value, b.value), a.constant and b.constant)


class SymExprs(dict):
    """What takes a kernel's integers."""

    nbSymExprs = 0  # noqa: N815  # TensorRT's name


trt.IDimensionExpr = Dimension
trt.DimsExprs = lambda count: [None] * count
_tensor.SymExprImpl = lambda expression: expression._expr


def described(data_type: str, dims: list[int]) -> Any:
    tensor, dynamic = trt.PluginTensorDesc(), trt.DynamicPluginTensorDesc()
    tensor.type, tensor.format = getattr(trt.DataType, data_type), trt.TensorFormat.LINEAR
    tensor.dims, tensor.scale = trt.Dims(dims), 1.0
    dynamic.desc = tensor
    return dynamic


def asked(case: dict[str, Any]) -> dict[str, Any]:
    """One plugin through a build: `types` and `shapes` are its inputs', negative lengths are decided by calls."""
    glue.register(trtp, [case["operator"]], Device(**case["device"]), aliased=case["aliased"], lazy=True)
    definition = _lib.QDP_REGISTRY[f"trtbuild::{case['operator']}"]
    creator = _lib._TemplatePluginCreator(
        case["operator"], "trtbuild", {name: (True, kind) for name, kind in definition.input_attrs.items()}
    )
    fields = []
    for name, kind in definition.input_attrs.items():
        number, field = ATTRIBUTE_FIELDS[kind]
        value = np.array([case["attributes"][name]], number)
        fields.append(trt.PluginField(name, value, getattr(trt.PluginFieldType, field)))
    plugin = creator.create_plugin(
        case["operator"],
        "trtbuild",
        trt.PluginFieldCollection(fields),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.STRICT_AOT,
    )
    types = [getattr(trt.DataType, name) for name in case["types"]]
    given = plugin.get_output_data_types(types, [len(shape) for shape in case["shapes"]])
    dims = [[Dimension(abs(length), length >= 0) for length in shape] for shape in case["shapes"]]
    outputs = plugin.get_output_shapes(dims, [], ExprBuilder())
    shapes = [[length.value for length in shape] for shape in outputs]
    names = [data_type.name for data_type in [*types, *given]]
    tensors = [described(*pair) for pair in zip(names, [*case["shapes"], *shapes], strict=True)]
    combination = plugin.get_supported_format_combinations(tensors, len(types))
    plugin.configure_plugin(tensors[: len(types)], tensors[len(types) :])
    tactics = plugin.get_valid_tactics()
    plugin.set_tactic(tactics[0])
    launch, integers = SimpleNamespace(), SymExprs()
    plugin.get_launch_params(None, tensors, len(types), launch, integers, ExprBuilder())
    descriptions = [tensor.desc for tensor in tensors]
    entry, ptx = plugin.get_kernel(descriptions[: len(types)], descriptions[len(types) :])
    return {
        "inputs": definition.input_tensor_names,
        "attributes": list(definition.input_attrs),
        "output_types": [data_type.name for data_type in given],
        "output_shapes": shapes,
        "aliased": plugin.aliased_map,
        "combination": [[tensor.type.name, tensor.format.name] for tensor in combination],
        "tactics": tactics,
        "entry": entry,
        "ptx": hashlib.sha256(ptx).hexdigest(),
        "launch": {name: length.value for name, length in vars(launch).items()},
        "integers": [integers[index].value for index in range(integers.nbSymExprs)],
    }


if __name__ == "__main__":
    json.dump([asked(case) for case in json.load(sys.stdin)], sys.stdout)
