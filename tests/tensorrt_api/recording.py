"""A recording double of the builder's configuration: it writes down what it is told, and knows only real names.

It is no TensorRT: it builds nothing. What it accepts are the enumerations and the members of `IBuilderConfig` in the
record of one real version.
"""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import Any


def enumerations(record: dict[str, Any]) -> Any:
    """The enumerations of a version, with its numbers, and its `__version__`."""
    kinds = {name: IntEnum(name, members) for name, members in record["enumerations"].items()}
    return SimpleNamespace(**kinds, __version__=record["version"])


def recording_config(record: dict[str, Any], default_sources: int = 0) -> Any:
    """An `IBuilderConfig` of a version, as far as its names go: `.said` lists the calls, `.given` the properties."""
    said: list[tuple[Any, ...]] = []
    given: dict[str, Any] = {}
    members: dict[str, Any] = {"said": said, "given": given, "__slots__": ()}
    for name, overloads in record["classes"]["IBuilderConfig"].items():
        if name != "__init__":
            members[name] = _method(name, said) if overloads else _property(name, given)
    members["get_tactic_sources"] = lambda self: default_sources
    return type("IBuilderConfig", (), members)()


def _method(name: str, said: list[tuple[Any, ...]]) -> Any:
    def call(self: Any, *arguments: Any) -> bool:
        said.append((name, *arguments))
        return True

    return call


def _property(name: str, given: dict[str, Any]) -> Any:
    return property(None, lambda self, value: given.update({name: value}))
