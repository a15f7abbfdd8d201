"""The files that a recipe lists, looked at before they are read."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtbuild.core import git_lfs
from trtbuild.core.errors import BackendMissing, DataError
from trtbuild.core.file_names import distinct_names


def named(files: Sequence[Path], kinds: Sequence[str]) -> dict[str, Path]:
    """The recipe's files by distinct name, in the order of their names; `kinds` are the suffixes that can be read.

    Raises DataError where there is none, one is of another kind, or Git LFS left a pointer in its place.
    """
    known = ", ".join(kinds)
    if not files:
        raise DataError("the recipe lists no file to read samples from", hint=f"list {known} files under data.files")
    found = {name: file for file, name in distinct_names(map(Path, files)).items()}
    for name, file in found.items():
        if file.suffix.lower() not in kinds:
            raise DataError(f"{name} cannot be read: it is no {known} file", hint="take it out of data.files")
        try:
            is_pointer = git_lfs.is_pointer(file)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}", hint=f"look at {file}") from error
        if is_pointer:
            raise DataError(f"{name} is a Git LFS pointer, not the file itself", hint="fetch it: git lfs pull")
    return dict(sorted(found.items()))


def library(module: str, purpose: str) -> Any:
    """An optional library, imported. Raises BackendMissing with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = _PACKAGES.get(module.partition(".")[0], module.partition(".")[0])
        raise BackendMissing(
            f"{purpose} needs {package}, which this environment lacks",
            hint="install it: pip install 'trtbuild[datasets]'",
        ) from error


_PACKAGES = {"PIL": "Pillow"}
"""The package's name where it is not the module's."""
