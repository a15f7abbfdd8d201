"""What a stage is: a function whose signature is its declaration.

Each parameter's type says what it is, and `stage()` reads that once:

    an Artifact kind or a Result   an input: an edge of the graph, its content digest in the key
    a list of one of them          several inputs, in an order that counts
    a source (ModelSource, ...)    something outside, identified by the content of its files
    Options, Shapes                settings as the recipe spells them, in the key
    a Role                         a part for a backend to play; that backend's versions in the key
    Workspace                      a private folder to write in
    the return type                the outputs, by name and kind
    the docstring's first line     the sentence that plan, progress and reports show

Cache key, explanation, schedule and job are derived from this record and from nothing else.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, Union, get_args, get_origin

from trtbuild.core.artifacts import Artifact
from trtbuild.core.roles import Role
from trtbuild.core.values import Result, Value

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound=Artifact)

Kind = type[Artifact] | type[Result]


@dataclass(frozen=True)
class Workspace:
    """A step's private, empty folder. A stage writes here and nowhere else."""

    path: Path

    def new(self, kind: type[A], name: str = "") -> A:
        """An empty folder for an artifact of this kind."""
        folder = self.path / (name or kind.__name__.lower())
        folder.mkdir()
        return kind(folder)


@dataclass(frozen=True)
class Resources:
    """What a step needs while it runs."""

    exclusive: bool = False
    """Nothing else may run beside it: it measures time."""


@dataclass(frozen=True)
class Stage(Generic[P, R]):
    """A stage's declaration, read from its function's signature."""

    name: str
    entry: str
    """`module:function`, by which a job in another process finds it."""
    version: int
    sentence: str
    function: Callable[P, R]
    inputs: Mapping[str, Kind]
    optional: frozenset[str]
    """Inputs that may be None."""
    several: frozenset[str]
    """Inputs that are lists."""
    settings: Mapping[str, Any]
    """Options, sources and Shapes: the values of the recipe."""
    roles: Mapping[str, type[Role]]
    workspace: str | None
    outputs: Mapping[str, Kind]
    resources: Resources = field(default_factory=Resources)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function itself, as any Python function."""
        return self.function(*args, **kwargs)


def stage(*, version: int, resources: Resources | None = None) -> Callable[[Callable[P, R]], Stage[P, R]]:
    """Declare a function as a stage.

    `version` is bumped whenever the same inputs may give other outputs; a test compares it with the code's hash.
    """

    def declare(function: Callable[P, R]) -> Stage[P, R]:
        hints = typing.get_type_hints(function)
        returned = hints.pop("return")
        inputs: dict[str, Kind] = {}
        optional: set[str] = set()
        several: set[str] = set()
        settings: dict[str, Any] = {}
        roles: dict[str, type[Role]] = {}
        workspace = None
        for parameter in inspect.signature(function).parameters:
            hint = hints[parameter]
            if get_origin(hint) is list:
                several.add(parameter)
                (hint,) = get_args(hint)
            members = [member for member in _members(hint) if member is not type(None)]
            if hint is Workspace:
                workspace = parameter
            elif all(issubclass(member, (Artifact, Result)) for member in members):
                inputs[parameter] = members[0]
                if type(None) in _members(hint):
                    optional.add(parameter)
            elif all(issubclass(member, Role) for member in members):
                roles[parameter] = members[0]
            elif all(issubclass(member, Value) for member in members):
                settings[parameter] = hint
            else:
                raise TypeError(
                    f"stage {function.__name__}: parameter {parameter} has a type that declares nothing: {hint}"
                )
        return Stage(
            name=function.__name__,
            entry=f"{function.__module__}:{function.__name__}",
            version=version,
            sentence=(inspect.getdoc(function) or "").split("\n")[0].rstrip("."),
            function=function,
            inputs=inputs,
            optional=frozenset(optional),
            several=frozenset(several),
            settings=settings,
            roles=roles,
            workspace=workspace,
            outputs=_outputs(function.__name__, returned),
            resources=resources or Resources(),
        )

    return declare


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _outputs(name: str, returned: Any) -> dict[str, Kind]:
    if isinstance(returned, type) and issubclass(returned, (Artifact, Result)):
        return {returned.__name__.lower(): returned}
    if isinstance(returned, type) and issubclass(returned, tuple) and hasattr(returned, "_fields"):
        return dict(typing.get_type_hints(returned))
    raise TypeError(f"stage {name}: must return an artifact, a result, or a NamedTuple of them")
