"""What our code asks of TensorRT: every attribute, enumeration member and call, read from its syntax tree.

Objects are known by the names of the variables that hold them, which is why the code spells those names everywhere.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "runtime": "Runtime",
    "cuda_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "measured": "ITimingCache",
    "inspector": "EngineInspector",
    "registry": "IPluginRegistry",
    "creator": "IPluginCreator",
    "layer": "ILayer",
    "tensor": "ITensor",
}
"""The class of each variable that holds one of TensorRT's objects."""
OWN = {
    "inspection.py": {"layer", "tensor"},
    "profiles.py": {"profile"},
    "building.py": {"profile"},
    "sessions.py": {"profile"},
}
"""Modules in which such a name (also) holds an object of ours; what it is asked for there is checked by mypy."""


@dataclass(frozen=True)
class Use:
    """One attribute that our code asks one of TensorRT's objects, or its module, for."""

    place: str
    owner: str
    """A class, an enumeration, or `` for the module itself."""
    name: str
    guarded: bool
    """Whether the function asks `hasattr` first, so that versions may lack it."""
    arguments: tuple[int, tuple[str, ...]] | None = None
    """Of a call: how many by position, and the others by name."""


def uses(folder: Path) -> list[Use]:
    """Every use in the modules of a folder."""
    return [use for file in sorted(folder.glob("*.py")) for use in _uses(file)]


def _uses(file: Path) -> Iterator[Use]:
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    guarded = {
        id(child)
        for function in functions
        if any(isinstance(node, ast.Name) and node.id == "hasattr" for node in ast.walk(function))
        for child in ast.walk(function)
    }
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = _owner(node.value, OWN.get(file.name, set()))
        if owner is None:
            continue
        call = calls.get(id(node))
        arguments = None
        if call is not None:
            arguments = (len(call.args), tuple(keyword.arg or "**" for keyword in call.keywords))
        yield Use(f"{file.name}:{node.lineno}", owner, node.attr, id(node) in guarded, arguments)


def _owner(value: ast.expr, own: set[str]) -> str | None:
    """The class or enumeration that an expression is, `` for TensorRT's module; None where it is none of them."""
    match value:
        case ast.Name(id="trt") | ast.Attribute(attr="trt"):
            return ""
        case ast.Name(id=name):
            return None if name in own else VARIABLES.get(name)
        case ast.Attribute(value=ast.Name(id="trt") | ast.Attribute(attr="trt"), attr=name):
            return name
        case ast.Attribute(attr=name):
            return {"_context": "IExecutionContext", "engine": "ICudaEngine", "_runtime": "Runtime"}.get(name)
    return None
