"""Our operators as TensorRT's quickly deployable plugins, made from their declarations: what a build registers.

TensorRT asks such a plugin three things: what its outputs look like, which types it takes, and for a kernel's PTX with
its launch (`tensorrt.plugin`, from 10.9). It puts the PTX into the engine, which then runs without Python and without a
library of ours. A node names all of an operator's attributes, because TensorRT hands on what it finds there.

Caches are ordinary outputs here, not aliases of their inputs: whoever runs the engine binds both names to one address,
and the kernel copies where it was given two. Declared as aliases, TensorRT may keep copies of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from inspect import Parameter, Signature
from types import GenericAlias
from typing import Any

from trtbuild.core.gpu import Device
from trtbuild.plugins.declaration import Operator, Output
from trtbuild.plugins.expressions import Algebra, evaluate
from trtbuild.plugins.kernels import choose, operators

DATA_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "FP8": "float8e4m3fn",
    "INT32": "int32",
    "INT64": "int64",
}
"""TensorRT's names of our element types."""
_AUTOTUNE_NAMES = {"FLOAT": "FP32", "HALF": "FP16"}
"""Where `AutoTuneCombination` spells them otherwise."""
_ATTRIBUTE_TYPES = {"float": float, "int": int}

TACTIC = 1
"""The only one: TensorRT would choose by times on random lengths, on which the work depends."""


def register(trtp: Any, names: Collection[str], device: Device, *, aliased: bool = False, lazy: bool = False) -> None:
    """Register operators of ours, by name, with TensorRT. `trtp` is the module `tensorrt.plugin`.

    `aliased` declares each cache as its output's alias. Registered operators stay for the life of the process: asked
    again, they take the new `device` and `aliased`. A `lazy` one is not seen by the ONNX parser, and needs no registry.
    """
    for name in names:
        if name not in _REGISTERED:
            plugin, operator = operators()[name]
            _REGISTERED[name] = _Glue(trtp, name, operator)
            _REGISTERED[name].register(plugin.namespace, lazy)
        _REGISTERED[name].device, _REGISTERED[name].aliased = device, aliased


class _Glue:
    """One operator, as the functions that `tensorrt.plugin` takes."""

    device: Device
    aliased: bool

    def __init__(self, trtp: Any, name: str, operator: Operator) -> None:
        self.trtp, self.name, self.operator = trtp, name, operator

    def register(self, namespace: str, lazy: bool) -> None:
        trtp, identity = self.trtp, f"{namespace}::{self.name}"
        outputs = GenericAlias(tuple, (trtp.TensorDesc,) * len(self.operator.outputs))
        types = GenericAlias(list, (trtp.AutoTuneCombination,))
        kernel = GenericAlias(tuple, (str, str, trtp.KernelLaunchParams, trtp.SymIntExprs))
        trtp.register(identity, lazy_register=lazy)(self._with_signature(self._describe, (), outputs))
        trtp.autotune(identity)(self._with_signature(self._types, ("outputs",), types))
        trtp.aot_impl(identity)(self._with_signature(self._kernel, ("outputs", "tactic"), kernel))

    def _describe(self, *tensors: Any, **attributes: Any) -> tuple[Any, ...]:
        """The outputs' types and symbolic shapes."""
        inputs = dict(zip(self.operator.inputs, tensors, strict=True))
        return tuple(self._output(output, inputs) for output in self.operator.outputs.values())

    def _output(self, output: Output, inputs: Mapping[str, Any]) -> Any:
        if output.like is not None:
            like = inputs[output.like]
            return like.aliased() if output.same_address and self.aliased else like.like()
        data_type = next(name for name, element_type in DATA_TYPES.items() if element_type == output.type)
        sizes = {**self._letters(inputs), "multiprocessors": self.device.multiprocessors}
        shape = tuple(evaluate(axis, sizes, self._symbols) for axis in output.shape)
        return self.trtp.from_shape_expr(shape, getattr(type(next(iter(inputs.values())).dtype), data_type))

    def _types(self, *given: Any) -> list[Any]:
        """The network's own types, in memory as they are declared: a strongly typed network knows what it wants."""
        tensors = [*given[: len(self.operator.inputs)], *given[-1]]
        names = [_AUTOTUNE_NAMES.get(tensor.dtype.name, tensor.dtype.name) for tensor in tensors]
        return [self.trtp.AutoTuneCombination(", ".join(names), "LINEAR", [TACTIC])]

    def _kernel(self, *given: Any) -> tuple[str, str, Any, Any]:
        """The kernel for the network's types and sizes: entry, PTX, launch and integers.

        Raises ModelError where there is none.
        """
        *arguments, _, _ = given
        inputs = dict(zip(self.operator.inputs, arguments, strict=False))
        attributes = dict(zip(self.operator.attributes, map(_number, arguments[len(inputs) :]), strict=True))
        types = {role: DATA_TYPES.get(tensor.dtype.name, tensor.dtype.name) for role, tensor in inputs.items()}
        sizes = self._letters(inputs)
        fixed = {letter: size for letter, size in sizes.items() if isinstance(size, int)}
        capability = self.device.sm[0] * 10 + self.device.sm[1]
        variant = choose(self.name, types, fixed, capability)
        architecture = variant.architecture(capability)
        assert architecture is not None
        launch = variant.launch(sizes, attributes, self.device.multiprocessors, self._symbols)
        parameters = self.trtp.KernelLaunchParams(*launch.grid, *launch.block, launch.shared_bytes)
        integers = self.trtp.SymIntExprs(len(launch.integers))
        for index, value in enumerate(launch.integers):
            integers[index] = self.trtp.SymInt32(value)
        return variant.name, variant.ptx(architecture).read_text(), parameters, integers

    def _letters(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The length behind each letter of the declared shapes: an int where the network fixes it, else symbolic."""

        def lengths() -> Iterator[tuple[str, Any]]:
            for role, tensor in self.operator.inputs.items():
                for axis, letter in enumerate(tensor.shape):
                    length = inputs[role].shape_expr[axis]
                    fixed = not length.is_fake and length.is_constant
                    yield letter, length.constant_value() if fixed else length

        found: dict[str, Any] = {}
        for letter, length in lengths():
            if not isinstance(found.get(letter), int):
                found[letter] = length
        return found

    @property
    def _symbols(self) -> Algebra:
        trtp = self.trtp
        return Algebra(trtp.ShapeExpr, {"cdiv": trtp.cdiv, "min": trtp.min, "max": trtp.max})

    def _with_signature(self, function: Callable[..., Any], last: tuple[str, ...], returns: Any) -> Callable[..., Any]:
        """The function under the signature that `tensorrt.plugin` reads: tensors, attributes, what comes `last`."""

        def call(*positional: Any, **named: Any) -> Any:
            return function(*positional, **named)

        kinds: dict[str, Any] = dict.fromkeys(self.operator.inputs, self.trtp.TensorDesc)
        kinds |= {name: _ATTRIBUTE_TYPES[attribute.type] for name, attribute in self.operator.attributes.items()}
        kinds |= dict.fromkeys(last, Parameter.empty)
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind) for name, kind in kinds.items()]
        call.__signature__ = Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]  # PEP 362
        return call


_REGISTERED: dict[str, _Glue] = {}
"""By name, as TensorRT's registry has them: one for the whole process."""


def _number(value: Any) -> Any:
    """An attribute as Python's number: some versions hand over an array of one."""
    return value.item() if hasattr(value, "item") else value
