"""What pydantic found wrong, said in a recipe's words, each with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trtbuild.core.errors import Problem
from trtbuild.recipe import model_schema, schema
from trtbuild.recipe.fields import keys_of, model_at, nearest
from trtbuild.recipe.merge import contains
from trtbuild.recipe.schema import Recipe
from trtbuild.recipe.yaml_document import Document, KeyPath, Place

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_PATTERNS = {
    schema.RECIPE_NAME: "a name of lowercase letters, digits, - and _",
    schema.VARIANT_NAME: "a name of lowercase letters, digits, -, _ and .",
    model_schema.ENTRY: "module:function",
    model_schema.COMMIT: "a full commit of 40 hexadecimal digits",
}


@dataclass(frozen=True)
class Finding:
    """Something wrong at a path of a recipe, before its place is looked up."""

    path: KeyPath
    message: str
    hint: str = ""


def located(document: Document, findings: list[Finding]) -> list[Problem]:
    """Findings with their places, in the order of the file, each once."""
    unique = list(dict.fromkeys(findings))
    with_places = [(place_of(document, finding.path), finding) for finding in unique]
    with_places.sort(key=lambda found: (found[0].line == 0, found[0].source, found[0].line))
    return [Problem(str(place), finding.message, finding.hint) for place, finding in with_places]


def place_of(document: Document, path: KeyPath) -> Place:
    """Where a path was written, or else the nearest mapping around it."""
    while path not in document.places:
        path = path[:-1]
    return document.places[path]


def findings_of(error: ValidationError, document: Document, under: KeyPath = ()) -> list[Finding]:
    """Everything that validation found; `under` is where the validated value stands in the document."""
    found: dict[KeyPath, list[Finding]] = {}
    for detail in error.errors(include_url=False):
        path = _path_in(document.value, under + detail["loc"], missing=detail["type"] == "missing")
        text = document.places[path].text if path in document.places else None
        finding = _finding(path, detail["type"], detail.get("input"), detail.get("ctx", {}), detail["msg"], text)
        found.setdefault(path, []).append(finding)
    return [_joined(same) for same in found.values()]


def _joined(same: list[Finding]) -> Finding:
    """The members of a union complain one by one: say it once."""
    wanted = [re.fullmatch(r"(.*): must be (.*?), not (.*)", finding.message) for finding in same]
    if len(same) == 1 or not all(wanted):
        return same[0]
    parts = [match.groups() for match in wanted if match]
    kinds = " or ".join(dict.fromkeys(kind for _, kind, _ in parts))
    return Finding(same[0].path, f"{parts[0][0]}: must be {kinds}, not {parts[0][2]}", same[-1].hint)


def _path_in(value: Any, location: tuple[str | int, ...], *, missing: bool) -> KeyPath:
    """The location without what pydantic adds to it: names of union members, `[key]`."""
    path: KeyPath = ()
    for number, key in enumerate(location):
        if contains(value, key):
            path, value = (*path, key), value[key]
        elif missing and number == len(location) - 1:
            path = (*path, key)
    return path


def _finding(
    path: KeyPath, kind: str, value: Any, context: Mapping[str, Any], message: str, text: str | None
) -> Finding:
    name = ".".join(map(str, path)) or "the recipe"
    if kind in ("extra_forbidden", "missing"):
        return _about_key(path, name, missing=kind == "missing")
    if kind == "value_error":
        return Finding(path, f"{name}: {context.get('error', message)}")
    if kind == "literal_error":
        return _about_choice(path, name, value, _choices(str(context.get("expected", ""))), text)
    if kind in _KINDS:
        return _about_kind(path, name, value, _KINDS[kind], text)
    if kind == "string_pattern_mismatch":
        wanted = _PATTERNS.get(context["pattern"], f"text like {context['pattern']}")
        return Finding(path, f"{name}: must be {wanted}, not {_named(value)}")
    shown = f", not {value!r}" if isinstance(value, (int, float, str)) and len(str(value)) < 60 else ""
    limit = "must not be empty" if kind == "too_short" else message.replace("Input should", "must", 1)
    return Finding(path, f"{name}: {limit}{shown}")


def _about_key(path: KeyPath, name: str, *, missing: bool) -> Finding:
    model = model_at(Recipe, path[:-1])
    if not missing:
        return Finding(path, f"unknown key {name}", nearest(str(path[-1]), keys_of(model)) if model else "")
    fields = model.model_fields.items() if model else ()
    info = next((info for field, info in fields if (info.alias or field) == path[-1]), None)
    return Finding(path, f"{name} is missing", " ".join((info.description or "").split()) if info else "")


def _choices(expected: str) -> list[str]:
    """The values in pydantic's "'a', 'b' or 'c'", or "16, 32 or 64" where they are numbers."""
    return re.findall(r"'([^']*)'", expected) or re.findall(r"[^\s,]+(?=,|$| or )", expected)


def _about_choice(path: KeyPath, name: str, value: Any, allowed: list[str], text: str | None) -> Finding:
    if text is not None and text in allowed and not isinstance(value, str):
        return Finding(path, f"{name}: {_misread(value, text)}", f'write "{text}" in quotes')
    said = value if text is None else text
    hint = nearest(str(said), allowed)
    hint = hint if hint.startswith("did you mean") else ""  # the message lists them already
    return Finding(path, f"{name}: {_named(said)} is not one of {', '.join(allowed)}", hint)


def _about_kind(path: KeyPath, name: str, value: Any, wanted: str, text: str | None) -> Finding:
    message = f"{name}: must be {wanted}, not {_named(value)}"
    if wanted == "text" and text and isinstance(value, (bool, int, float)):
        return Finding(path, message, f'{_misread(value, text)}; write "{text}" in quotes')
    if wanted == "a mapping" and value is None:
        return Finding(path, message, "write {} to take every default")
    if wanted == "a number" and re.fullmatch(r"[-+]?[0-9.]+[eE][0-9]+", str(value)):
        return Finding(path, message, "YAML wants a point and a sign: 1.0e+3")
    return Finding(path, message)


def _misread(value: Any, text: str) -> str:
    return f"YAML reads {text} as the {'number' if not isinstance(value, bool) else 'truth value'} {_named(value)}"


def _named(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else repr(value)
