"""The two shapes that every declared value has: settings that a recipe spells, results that a step found."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen, closed value: unknown keys are errors, attribute docstrings are its manual."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Options(Value):
    """Settings of a stage, spelled as the recipe spells them. Every field is part of the cache key."""


class Result(Value):
    """What a step found, kept as JSON. A failed check is a result too, never an exception."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True)


def digest_of(value: Any) -> str:
    """The sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
