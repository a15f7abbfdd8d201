"""Typed stubs of TensorRT's bindings, from the signatures in their docstrings: `python -m tests.tensorrt_api.stubs`.

`typings/tensorrt/__init__.pyi` is what this prints for the newest bindings; mypy reads it there. It holds the classes
that our code holds in its hands, every enumeration, and what their signatures name. Types that the docstrings spell in
words are `Any`. Names that older versions alone have are missing on purpose: code asks for them behind a `hasattr`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from typing import Any

from tests.tensorrt_api.record import CLASSES

HEAD = '''"""TensorRT {version}, as its bindings describe themselves.

Written by `python -m tests.tensorrt_api.stubs`; a test compares the two.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, SupportsFloat, SupportsInt, overload

from typing_extensions import Buffer

class Dims:
    def __init__(self, shape: tuple[int, ...] | list[int] = ...) -> None: ...
    def __iter__(self) -> Iterator[int]: ...
    def __len__(self) -> int: ...
'''
NONE_ON_FAILURE = {
    "build_serialized_network",
    "create_execution_context",
    "create_timing_cache",
    "deserialize_cuda_engine",
    "get_output",
    "get_timing_cache",
}
"""What returns None where it fails, as the text below the signatures says."""
_PLAIN = {"int", "str", "bool", "float", "bytes", "None", "object", "Any", "Buffer", "SupportsInt", "SupportsFloat"}
_GENERIC = {"list": "list[Any]", "tuple": "tuple[Any, ...]", "dict": "dict[Any, Any]"}
_CONVERSIONS = {"__int__": "int", "__index__": "int", "__len__": "int"}
"""Methods without docstrings worth reading."""


class Stubs:
    """The stubs of one version."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        names = [name for name in dir(trt) if not name.startswith("_")]
        kinds = {name: getattr(trt, name) for name in names if isinstance(getattr(trt, name), type)}
        self._enumerations = {name for name, kind in kinds.items() if hasattr(kind, "__members__")}
        self._classes = [name for name in CLASSES if hasattr(trt, name)]
        self._named: set[str] = set()
        """Classes that signatures name and that are not written out."""

    def text(self) -> str:
        """The whole file."""
        enumerations = [line for name in sorted(self._enumerations) for line in self._enumeration(name)]
        classes = [line for name in self._classes for line in self._class(name)]
        bare = [f"class {name}: ..." for name in sorted(self._named)]
        functions = [
            line
            for name in ("init_libnvinfer_plugins", "get_plugin_registry")
            for line in self._function(name, getattr(self._trt, name), "", method=False)
        ]
        parts = [HEAD.format(version=self._trt.__version__), "__version__: str", *functions, *bare]
        return "\n".join([*parts, *enumerations, *classes]) + "\n"

    def _enumeration(self, name: str) -> Iterator[str]:
        yield f"class {name}:"
        for member, value in getattr(self._trt, name).__members__.items():
            yield f"    {member}: ClassVar[{name}]  # {int(value)}"
        yield "    __members__: ClassVar[dict[str, Any]]"
        yield "    name: str"
        yield "    value: int"
        yield f"    def __init__(self, value: int) -> None: ...  # {name}(0)"
        yield "    def __int__(self) -> int: ..."

    def _class(self, name: str) -> Iterator[str]:
        yield f"class {name}:"
        kind = getattr(self._trt, name)
        if name == "IHostMemory":
            yield "    def __buffer__(self, flags: int, /) -> memoryview: ..."
        for member, value in sorted(vars(kind).items()):
            if member.startswith("_") and member != "__init__" and member not in _CONVERSIONS:
                continue
            if member in _CONVERSIONS:
                yield f"    def {member}(self) -> {_CONVERSIONS[member]}: ..."
            elif isinstance(value, property):
                yield from self._property(member, value)
            elif callable(value) and not isinstance(value, type):
                yield from self._function(member, value, "    ", method=True)
            else:
                yield f"    {member}: ClassVar[Any]"

    def _property(self, name: str, value: property) -> Iterator[str]:
        returned = re.search(r"-> (.+)$", (value.fget.__doc__ or "").strip().split("\n")[0]) if value.fget else None
        spelled = self._type(returned[1]) if returned else "Any"
        yield "    @property"
        yield f"    def {name}(self) -> {spelled}: ..."
        if value.fset is not None:
            yield f"    @{name}.setter"
            given = re.search(r"arg1: ([^)]+)\)", value.fset.__doc__ or "")
            yield f"    def {name}(self, value: {self._type(given[1]) if given else 'Any'}) -> None: ..."

    def _function(self, name: str, value: Any, indent: str, *, method: bool) -> Iterator[str]:
        found = list(
            {tuple(parameters): (parameters, its) for parameters, its in self._signatures(name, value)}.values()
        )
        own = "self, " if method else ""
        if not found:
            returned = "None" if name == "__init__" else "Any"
            yield f"{indent}def {name}({own}*args: Any, **kwargs: Any) -> {returned}: ..."
        for parameters, returned in found:
            if len(found) > 1:
                yield f"{indent}@overload"
            listed = (own + ", ".join(parameters)).removesuffix(", ")
            yield f"{indent}def {name}({listed}) -> {returned}: ..."

    def _signatures(self, name: str, value: Any) -> Iterator[tuple[list[str], str]]:
        for line in (getattr(value, "__doc__", "") or "").splitlines():
            match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.+)$", line)
            if match is None:
                continue
            function = _parsed(match[1])
            arguments = [each for each in function.args.args if each.arg != "self"]
            first_default = len(arguments) - len(function.args.defaults)
            yield (
                [
                    f"{each.arg}: {self._type(ast.unparse(each.annotation or ast.Name('Any')), argument=True)}"
                    + (" = ..." if number >= first_default else "")
                    for number, each in enumerate(arguments)
                ],
                self._type(match[2]) + " | None" * (name in NONE_ON_FAILURE),
            )

    def _type(self, spelled: str, *, argument: bool = False) -> str:
        """A docstring's type as Python writes it; `Any` where it is none."""
        plain = re.sub(
            r"\b(?:tensorrt_bindings\.tensorrt|tensorrt\.tensorrt|tensorrt|typing_extensions|typing)\.", "", spelled
        )
        plain = "Buffer" if plain.strip() == "bytes" and argument else plain.strip()
        if plain in _GENERIC:
            return _GENERIC[plain]
        if not re.fullmatch(r"[\w\[\], |.]+", plain):
            return "Any"
        if argument:
            plain = re.sub(r"\bDims\b", "Dims | tuple[int, ...] | list[int]", plain)
        for name in re.findall(r"[A-Za-z_]\w*", plain):
            if name in _PLAIN | _GENERIC.keys() | self._enumerations or name in ("Dims", *self._classes):
                continue
            if not isinstance(getattr(self._trt, name, None), type):
                return "Any"
            self._named.add(name)
        return plain


def _parsed(parameters: str) -> ast.FunctionDef:
    """A function with these parameters.

    Docstrings write C++ names, defaults that Python cannot read (`= <X.A: 0>`), and defaults before parameters without
    one, which are none then.
    """
    readable = re.sub(r"= <[^>]*>", "= ...", re.sub(r"\b(?:\w+::)+", "", parameters))
    try:
        function = ast.parse(f"def f({readable}): ...").body[0]
    except SyntaxError:
        function = ast.parse(f"def f({re.sub(' = [^,]+', '', readable)}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return function


if __name__ == "__main__":
    try:
        import tensorrt_bindings as trt
    except ModuleNotFoundError:
        import tensorrt as trt
    sys.stdout.write(Stubs(trt).text())
