"""One recipe over another: mappings merge key by key, anything else replaces, null drops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtbuild.recipe.yaml_document import Document, KeyPath


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values merged: `over` wins; a null in it drops what `under` has."""
    result = dict(under)
    for key, value in over.items():
        if value is None and key in result:
            del result[key]
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def merged_documents(under: Document, over: Document) -> Document:
    """Documents merged; every value keeps the place where it was written."""
    value = merged(under.value, over.value)
    kept = {path: place for path, place in under.places.items() if not _replaced(path, over.value)}
    places = {**kept, **over.places}
    return Document(value, {path: place for path, place in places.items() if _exists(value, path)})


def _replaced(path: KeyPath, over: Any) -> bool:
    """Whether `over` has something else than a mapping at the path or above it."""
    for key in path:
        if not isinstance(over, Mapping):
            return True
        if key not in over:
            return False
        over = over[key]
    return not isinstance(over, Mapping)


def _exists(value: Any, path: KeyPath) -> bool:
    for key in path:
        if not contains(value, key):
            return False
        value = value[key]
    return True


def contains(value: Any, key: str | int) -> bool:
    """Whether a mapping has the key, or a list the position."""
    if isinstance(value, list):
        return isinstance(key, int) and key < len(value)
    return isinstance(value, Mapping) and key in value
