"""Call a function that a recipe names as `module:function`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from trtbuild.core.errors import ModelError
from trtbuild.core.sources import PythonSource


def load_entry(source: PythonSource) -> Any:
    """Import the named function; the recipe's folder comes first on the search path. Raises ModelError."""
    module_name, _, attribute = source.entry.partition(":")
    folder = str(source.folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"{source.entry}: cannot import {module_name!r}: {error}",
            hint=f"the module must be installed, or be a file in {folder}",
        ) from error
    except Exception as error:
        raise ModelError(f"{source.entry}: importing {module_name!r} raised {type(error).__name__}: {error}") from error
    if not callable(function := getattr(module, attribute, None)):
        raise ModelError(f"{source.entry}: module {module_name!r} has no function {attribute!r}")
    return function


def call_entry(source: PythonSource, **arguments: Any) -> Any:
    """Call the named function with the recipe's arguments and these. Raises ModelError where it raises."""
    function = load_entry(source)
    try:
        return function(**{**source.arguments, **arguments})
    except Exception as error:
        raise ModelError(f"{source.entry} raised {type(error).__name__}: {error}") from error
