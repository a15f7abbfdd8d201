"""Call a function that a recipe names as `module:function`."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trtbuild.core.errors import ModelError, TrtbuildError
from trtbuild.core.sources import PythonSource


def load_entry(source: PythonSource) -> Any:
    """Import the named function; the recipe's folder comes first on the search path. Raises ModelError."""
    module_name, _, attribute = source.entry.partition(":")
    folder = str(source.folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with _blamed(source):
            module = importlib.import_module(module_name)
    except ModelError as error:
        hint = (
            f"the module must be installed, or be a file in {folder}"
            if isinstance(error.__cause__, ImportError)
            else ""
        )
        raise ModelError(f"cannot import {module_name!r}: {error.message}", hint=hint) from error
    if not callable(function := getattr(module, attribute, None)):
        raise ModelError(f"{source.entry}: module {module_name!r} has no function {attribute!r}")
    return function


def call_entry(source: PythonSource, *positional: Any, **arguments: Any) -> Any:
    """Call the named function with these arguments and the recipe's. Raises ModelError where it raises.

    A function with a parameter `files` gets the files that the recipe lists, unless one of these gives it.
    """
    function = load_entry(source)
    given = {**source.arguments, **arguments}
    if "files" in _parameters(function) - set(given):
        given["files"] = source.listed
    with _blamed(source):
        return function(*positional, **given)


def iterate_entry(source: PythonSource, **arguments: Any) -> Iterator[Any]:
    """What the named generator yields. Raises ModelError where it raises, or returns nothing to iterate over."""
    made = call_entry(source, **arguments)
    if not isinstance(made, Iterable):
        raise ModelError(f"{source.entry} returned {type(made).__name__}, which cannot be iterated over")
    with _blamed(source):
        yield from made


def _parameters(function: Any) -> set[str]:
    """The parameters that a call may name; none where Python cannot tell, as for some functions written in C."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {each.name for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}


@contextmanager
def _blamed(source: PythonSource) -> Iterator[None]:
    """Turn what the recipe's own code raises into a sentence with the line that raised it."""
    try:
        yield
    except TrtbuildError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(source.folder)]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}: " if own else ""
        raise ModelError(f"{place}{source.entry} raised {type(error).__name__}: {error}") from error
