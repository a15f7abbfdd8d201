"""An alias such as `prod`: an index over a bundle's index, that says who it replaced and what the verdicts were.

The alias's tag points to a promotion, and a promotion to its bundle (`subject`), so that one move of one tag changes
both what is live and its history. Its manifests are the bundle's, so that any OCI client can pull by the alias.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import ValidationError

from trtbuild.bundle.manifest import Bundle
from trtbuild.core.content import Descriptor, Index
from trtbuild.core.errors import VerificationError
from trtbuild.core.values import Value, canonical_json

PROMOTION_TYPE = "application/vnd.trtbuild.promotion.v1+json"
_RECORD = "ai.trtbuild.promotion"


class Promotion(Value):
    """One move of an alias."""

    alias: str
    action: Literal["promote", "rollback"]
    recipe: str
    version: str
    """Of the bundle it leads to."""
    at: str
    """When; RFC 3339, UTC."""
    verdicts: dict[str, str]
    """By engine: `passed`, or the reasons."""
    replaced: str = ""
    """The version it led to before."""
    before_digest: str = ""
    """The promotion to which a roll-back returns; empty where there is none."""
    before_version: str = ""


def promotion_index(record: Promotion, subject: Descriptor, bundle_index: Index) -> Index:
    """The document that an alias's tag points to."""
    return Index(
        artifact_type=PROMOTION_TYPE,
        manifests=bundle_index.manifests,
        subject=subject.plain.model_copy(update={"artifact_type": bundle_index.artifact_type}),
        annotations={_RECORD: canonical_json(record.model_dump(mode="json"))},
    )


def read_promotion(index: Index, where: str) -> tuple[Promotion, Descriptor]:
    """A promotion and the bundle's index that it leads to. Raises VerificationError where the index is none."""
    try:
        if index.subject is None:
            raise ValueError("it leads nowhere")
        return Promotion.model_validate(json.loads((index.annotations or {})[_RECORD])), index.subject
    except (KeyError, ValueError, RecursionError, ValidationError) as error:
        raise VerificationError(f"{where} is no promotion that can be read: {error}", hint="promote again") from error


def verdicts(bundle: Bundle) -> dict[str, str]:
    """What each engine's gates said, in words."""
    return {
        engine.name: "; ".join([engine.verdict.outcome, *engine.verdict.reasons, *engine.verdict.remarks])
        for engine in bundle.engines
    }
