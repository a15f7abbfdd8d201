"""`--set path=value`: one value of a recipe replaced, as if the file had said so."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtbuild.core.errors import Problem, RecipeError
from trtbuild.recipe.fields import nearest, takes_text
from trtbuild.recipe.schema import Recipe
from trtbuild.recipe.yaml_document import Document, KeyPath, Place, parse_document

NAMED: tuple[KeyPath, ...] = (("variants",), ("shapes", "inputs"), ("shapes", "axes"))
"""Mappings whose keys the recipe chose: setting a part of a name that is not there is a slip, not a new entry."""


class _Refused(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint


def overridden(document: Document, sets: Sequence[str], folder: Path) -> tuple[Document, list[Problem]]:
    """The document with every `path=value` applied in order, and what was wrong with those that were not."""
    value, places = copy.deepcopy(document.value), dict(document.places)
    problems: list[Problem] = []
    for setting in sets:
        spelled, equals, text = setting.partition("=")
        origin = Place(f"--set {setting}", folder)
        try:
            if not equals or not spelled.strip():
                raise _Refused("is not path=value", "for example --set engine.threads=4")
            if spelled.strip() == "extends":
                raise _Refused("extends can only be written in a recipe")
            parsed = parse_document(text, origin)
            path = _apply(value, spelled.strip(), parsed.value)
            if _is_text(parsed.value, text.strip(), path):
                _apply(value, spelled.strip(), text.strip())
        except _Refused as refused:
            problems.append(Problem(str(origin), refused.message, refused.hint))
        except RecipeError as error:
            problems.extend(error.problems)
        else:
            places = {at: place for at, place in places.items() if at[: len(path)] != path}
            for depth in range(1, len(path) + 1):
                places.setdefault(path[:depth], origin)
            places.update({path + at: place for at, place in parsed.places.items()})
    return Document(value, places), problems


def _is_text(value: Any, text: str, path: KeyPath) -> bool:
    """Whether a number stands where only text may, and nothing of it was lost: 8.6 is a version, 10.10 reads as 10.1
    and must be written in quotes."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and str(value) == text and takes_text(Recipe, path)


def _apply(root: dict[str, Any], spelled: str, new: Any) -> KeyPath:
    """Put a value at a dotted path, making mappings on the way; returns the path."""
    here: Any = root
    path: KeyPath = ()
    words = spelled.split(".")
    while True:
        key, words = _step(here, path, words)
        path = (*path, key)
        if not words:
            here[key] = new
            return path
        if isinstance(here, dict) and here.get(key) is None:
            if path[:-1] in NAMED:
                raise _Refused(f"there is no {key!r} in {_dotted(path[:-1])}", nearest(str(key), map(str, here)))
            here[key] = {}
        here = here[key]


def _step(here: Any, path: KeyPath, words: list[str]) -> tuple[str | int, list[str]]:
    """The next key inside `here`, and the words left: keys that hold dots themselves are tried first."""
    if isinstance(here, list):
        if not words[0].isdecimal() or int(words[0]) >= len(here):
            raise _Refused(
                f"{_dotted(path)} is a list of {len(here)}: {words[0]!r} is no position in it", "positions count from 0"
            )
        return int(words[0]), words[1:]
    if not isinstance(here, dict):
        raise _Refused(f"{_dotted(path)} is {here!r}, which has no {words[0]!r} inside")
    for length in range(len(words), 1, -1):
        if (joined := ".".join(words[:length])) in here:
            return joined, words[length:]
    if path == ("matrix",):  # every key of the matrix is a dotted path
        return ".".join(words), []
    return words[0], words[1:]


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
