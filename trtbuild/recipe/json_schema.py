"""The recipe language as JSON Schema, for editors.

python -m trtbuild.recipe.json_schema > recipes/recipe.schema.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from trtbuild.recipe.schema import Recipe


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12), its descriptions taken from the fields' docstrings."""
    schema = Recipe.model_json_schema(by_alias=True, mode="validation")
    described: dict[str, Any] = _flowing(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described, "title": "trtbuild recipe"}


def json_schema_text() -> str:
    """The text of the checked-in file."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _flowing(node: Any) -> Any:
    """Descriptions without the line breaks of the source."""
    if isinstance(node, list):
        return [_flowing(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: " ".join(value.split()) if key == "description" and isinstance(value, str) else _flowing(value)
        for key, value in node.items()
    }


if __name__ == "__main__":
    sys.stdout.write(json_schema_text())
