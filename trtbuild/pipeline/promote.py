"""Aliases: let `prod` lead to a version, go back, and see what leads where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from trtbuild.bundle.image import BUNDLE_TYPE
from trtbuild.bundle.promotion import PROMOTION_TYPE, Promotion, promotion_index, read_promotion, verdicts
from trtbuild.core.content import INDEX_TYPE, Blob, Index
from trtbuild.core.errors import DataError, DestinationError
from trtbuild.core.events import TransferListener
from trtbuild.core.shipping import ListedAlias, ListedVersion, PromotionReport, VersionsReport
from trtbuild.destinations.protocol import Tag
from trtbuild.destinations.transfer import send
from trtbuild.pipeline.published import Found, Place, find, follow, own_tags, place, read_published


def promote(
    reference: str,
    alias: str,
    *,
    keys: Sequence[str | Path] = (),
    threshold: int = 1,
    allow_failed: bool = False,
) -> PromotionReport:
    """Let an alias of the same place lead to a published bundle, with its verdicts and what it replaced.

    With `keys`, `threshold` of them must have signed the bundle. Raises DataError where an engine failed its gates
    (unless `allow_failed`), DestinationError where somebody else moved the alias meanwhile.
    """
    with place(reference, writing=True) as at:
        at.reference.tagged(alias)
        found = find(at)
        published = read_published(at, found, [Path(key) for key in keys], threshold)
        if published.bundle.failed and not allow_failed:
            engine = published.bundle.failed[0]
            raise DataError(
                f"{engine.name} failed its gates: {'; '.join(engine.verdict.reasons)}",
                hint="promote a version whose engines all passed, or say --allow-failed",
            )
        seen, current = _current(at, alias)
        record = Promotion(
            alias=alias,
            action="promote",
            recipe=published.bundle.recipe,
            version=published.bundle.version,
            at=_now(),
            verdicts=verdicts(published.bundle),
            replaced=current.version if current else "",
            before_digest=seen.descriptor.digest if seen else "",
            before_version=current.version if current else "",
        )
        if current is None or seen is None or follow(at, seen.descriptor).descriptor.digest != found.descriptor.digest:
            _move(at, record, found, seen)
        return _report(at, record, found)


def rollback(reference: str) -> PromotionReport:
    """Let an alias lead to what it led to before; done again, to what came before that.

    Raises DestinationError where there is no such alias, or nothing before it.
    """
    with place(reference, writing=True) as at:
        alias = at.reference.tag
        if alias is None:
            raise DestinationError(f"{reference} names no alias", hint=f"write {at.reference.place}:prod")
        seen, current = _current(at, alias)
        if current is None:
            raise DestinationError(f"{at.reference.place} has no alias {alias}", hint="`trtbuild versions` lists them")
        if not current.before_digest:
            raise DestinationError(f"nothing came before {current.version} as {alias}", hint="promote another version")
        before = at.described(current.before_digest)
        earlier, _ = read_promotion(at.index(before), reference)
        found = follow(at, before)
        record = earlier.model_copy(update={"action": "rollback", "at": _now(), "replaced": current.version})
        _move(at, record, found, seen)
        return _report(at, record, found)


def versions(reference: str) -> VersionsReport:
    """What a place holds: versions with their engines, and aliases with what they lead to."""
    listed: list[ListedVersion] = []
    aliases: list[ListedAlias] = []
    with place(reference) as at:
        for name in own_tags(at):
            tag = at.tag(name)
            if tag is None or tag.descriptor.media_type != INDEX_TYPE:
                continue
            index = at.index(tag.descriptor)
            if index.artifact_type == BUNDLE_TYPE:
                listed.append(_listed(name, tag, index))
            elif index.artifact_type == PROMOTION_TYPE:
                record, subject = read_promotion(index, f"{at.reference.place}:{name}")
                aliases.append(
                    ListedAlias(
                        alias=name,
                        version=record.version,
                        digest=subject.digest,
                        since=record.at,
                        action=record.action,
                        before=record.before_version,
                    )
                )
        return VersionsReport(place=at.reference.place, versions=listed, aliases=aliases)


def _listed(name: str, tag: Tag, index: Index) -> ListedVersion:
    engines = {
        found["ai.trtbuild.engine"]: found.get("ai.trtbuild.verdict", "")
        for each in index.manifests
        if (found := each.annotations or {}).get("ai.trtbuild.engine")
    }
    return ListedVersion(
        tag=name,
        digest=tag.descriptor.digest,
        created=(index.annotations or {}).get("org.opencontainers.image.created", ""),
        engines=sorted(engines),
        failed=sorted(engine for engine, verdict in engines.items() if verdict == "failed"),
    )


def _current(at: Place, alias: str) -> tuple[Tag | None, Promotion | None]:
    """The alias as it is. Raises DestinationError where its name is a version's."""
    seen = at.tag(alias)
    if seen is None:
        return None, None
    index = at.index(seen.descriptor)
    if index.artifact_type != PROMOTION_TYPE:
        raise DestinationError(
            f"{alias} is a version of {at.reference.place}, not an alias", hint="choose another name for the alias"
        )
    return seen, read_promotion(index, f"{at.reference.place}:{alias}")[0]


def _move(at: Place, record: Promotion, found: Found, seen: Tag | None) -> None:
    blob = Blob.of_document(promotion_index(record, found.descriptor, found.index), record.alias)
    send(at.destination, [blob], TransferListener(), at.patience)
    at.destination.move_tag(record.alias, blob.descriptor, seen)


def _report(at: Place, record: Promotion, found: Found) -> PromotionReport:
    action: Literal["promote", "rollback"] = record.action
    return PromotionReport(
        place=at.reference.place,
        alias=record.alias,
        version=record.version,
        digest=found.descriptor.digest,
        replaced=record.replaced,
        action=action,
        verdicts=record.verdicts,
    )


def _now() -> str:
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(seconds), timezone.utc) if seconds else datetime.now(timezone.utc)
    return moment.replace(microsecond=0).isoformat()
