"""What may be written at a path of a recipe, read from the schema."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from trtbuild.recipe.yaml_document import KeyPath


def model_at(root: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The closed mapping that the schema declares at a path; None where it declares none."""
    here: Any = root
    for key in path:
        here = _inside(here, key)
        if here is None:
            return None
    return _model(here)


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """A mapping's keys as a recipe spells them, with the type of each."""
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def knows(root: type[BaseModel], path: KeyPath) -> bool:
    """Whether the schema declares something at a path."""
    here: Any = root
    for key in path:
        here = _inside(here, key)
        if here is None:
            return False
    return True


def takes_text(root: type[BaseModel], path: KeyPath) -> bool:
    """Whether the schema declares text at a path, and no number."""
    here: Any = root
    for key in path:
        here = _inside(here, key)
        if here is None:
            return False
    members = {*_members(here)}
    return str in members and not members & {int, float, Any}


def nearest(word: str, known: Iterable[str], *, none: str = "") -> str:
    """`did you mean ...?` where a known word is close, else the known words."""
    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(known)}" if known else none


def _inside(annotation: Any, key: str | int) -> Any:
    if (model := _model(annotation)) is not None:
        return keys_of(model).get(str(key))
    for member in _members(annotation):
        if get_origin(member) is dict:
            return get_args(member)[1]
        if get_origin(member) is list and isinstance(key, int):
            return get_args(member)[0]
        if member is Any:
            return Any
    return None


def _model(annotation: Any) -> type[BaseModel] | None:
    found = (member for member in _members(annotation) if isinstance(member, type) and issubclass(member, BaseModel))
    return next(found, None)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The type itself, or the types of a union; what `Annotated` wraps is taken out."""
    if hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    if get_origin(annotation) in (dict, list) or not get_args(annotation):
        return (annotation,)
    return get_args(annotation)
