"""The recipe language as a page: every key, its type, its default and its docstring.

python -m trtbuild.recipe.reference > docs/recipe.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from trtbuild.recipe.json_schema import json_schema

_HEAD = """\
# Recipe reference

Generated from the schema by `make docs`. A recipe is closed: an unknown key is an error, with the nearest known one.
Paths are relative to the file that spells them. `--set a.b=c` sets any of these keys for one build.
"""


_WORDS = {"object": "mapping", "integer": "whole number", "string": "text", "boolean": "true or false"}


def reference() -> str:
    """The page, as Markdown: the recipe first, then each section in the order in which it is met."""
    schema = json_schema()
    definitions = schema["$defs"]
    lines = [_HEAD, *_section("Recipe", schema, definitions)]
    waiting, met = list(_named(schema)), set[str]()
    while waiting:
        name = waiting.pop(0)
        if name not in met:
            met.add(name)
            lines += _section(name, definitions[name], definitions)
            waiting += _named(definitions[name])
    return "\n".join(lines)


def _section(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    if description := schema.get("description"):
        yield f"{description}\n"
    properties = _mapping(schema).get("properties", {})
    if not properties:
        return
    required = _required(_mapping(schema))
    yield "| key | type | default | meaning |\n| --- | --- | --- | --- |"
    for key, field in properties.items():
        default = "required" if key in required else _default(field)
        # pydantic leaves out a field's text where it is the same as its class's.
        meaning = field.get("description") or (definitions[_name_of(field)]["description"] if "$ref" in field else "")
        yield f"| `{key}` | {_type(field)} | {default} | {meaning} |"
    yield ""


def _required(schema: dict[str, Any]) -> set[str]:
    """What every mapping must have, unless it extends another."""
    wholes = [set(part["required"]) for part in schema.get("anyOf", []) if "extends" not in part["required"]]
    return {*schema.get("required", []), *(set.intersection(*wholes) if wholes else ())}


def _mapping(schema: dict[str, Any]) -> dict[str, Any]:
    """The part that is a mapping, where a value may also be spelled as text."""
    return next((part for part in schema.get("anyOf", []) if "properties" in part), schema)


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = _name_of(field)
        return f"[{name}](#{name.lower()})"
    if parts := field.get("anyOf") or field.get("oneOf") or field.get("allOf"):
        return " or ".join(dict.fromkeys(_type(part) for part in parts if part.get("type") != "null"))
    if choices := field.get("enum") or ([field["const"]] if "const" in field else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    inside = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), None)
    if field.get("type") == "object" and isinstance(inside, dict):
        return f"mapping of {_type(inside)}"
    kind = str(field.get("type", "any"))
    return _WORDS.get(kind, kind)


def _name_of(field: dict[str, Any]) -> str:
    return str(field["$ref"]).split("/")[-1]


def _default(field: dict[str, Any]) -> str:
    if field.get("default") in (None, ""):
        return ""
    default = field["default"]
    if isinstance(default, dict) and default:
        return "its defaults"
    return f"`{'{}' if default == {} else default}`"


def _named(schema: Any) -> Iterator[str]:
    """The definitions that a schema refers to, in order."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield _name_of(schema)
        for key, part in schema.items():
            if key != "$defs":
                yield from _named(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _named(part)


if __name__ == "__main__":
    sys.stdout.write(reference())
