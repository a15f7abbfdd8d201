"""Domains of a calibration set, such as general text, code, mathematics and chat: files by pattern, in fixed shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from trtbuild.core.errors import DataError
from trtbuild.datasets.selection import apportioned


class Domain(NamedTuple):
    """The files of one pattern, and how many samples they are to give."""

    files: dict[str, Path]
    samples: int
    said: str
    """` in code*`, for messages; empty where there is one domain only."""


def domains(files: dict[str, Path], count: int, weights: Mapping[str, float] | None) -> Iterator[Domain]:
    """`count` samples divided by `weights`, exactly; without them all files are one domain. Domains without a sample
    are left out.

    Patterns match names alone: a folder's name may change without changing what is built. Raises DataError where a
    pattern matches no file, or a file belongs to no pattern or to several.
    """
    for pattern, rows in apportioned(count, weights or {"*": 1.0}).items():
        chosen = {name: file for name, file in files.items() if fnmatchcase(file.name, pattern)}
        if not chosen:
            raise DataError(f"weights: {pattern!r} matches no file", hint=f"data.files lists {', '.join(files)}")
        for name, file in files.items():
            matching = [each for each in weights or {pattern: 1.0} if fnmatchcase(file.name, each)]
            if len(matching) != 1:
                several = f"is matched by {' and '.join(matching)}" if matching else "is matched by no pattern"
                raise DataError(f"weights: {name} {several}", hint="every file must belong to one pattern")
        if rows:
            yield Domain(chosen, rows, f" in {pattern}" if weights else "")
