"""What speaks of a document: signatures, bills of materials, promotions.

Where a place keeps no account itself, they are listed by an index under the tag `sha256-<hex>`, as the distribution
specification says. ["Referrers Tag Schema"; Docker Hub and Debian's docker-registry 2.8 work so]
"""

from __future__ import annotations

from pydantic import ValidationError

from trtbuild.core.content import Blob, Descriptor, Index, Manifest
from trtbuild.core.errors import VerificationError
from trtbuild.core.events import TransferListener
from trtbuild.destinations.patience import Patience
from trtbuild.destinations.protocol import Destination, TagMoved
from trtbuild.destinations.transfer import asked, fetch_content, send

MOST = 1000
"""Referrers of one document; a list that is longer was not made by us."""
_TRIES = 20


def fallback_tag(subject: Descriptor) -> str:
    """The tag under which the referrers of a document are listed."""
    return f"sha256-{subject.hex}"


def referrers(
    destination: Destination, subject: Descriptor, patience: Patience, artifact_type: str
) -> list[Descriptor]:
    """What speaks of a document and is of this type."""
    found = asked(patience, lambda: destination.listed_referrers(subject))
    if found is None:
        tag = asked(patience, lambda: destination.tag(fallback_tag(subject)))
        found = [] if tag is None else read_index(destination, tag.descriptor, patience).manifests
    return [each for each in found[:MOST] if each.artifact_type == artifact_type]


def attach(
    destination: Destination, document: Manifest, name: str, listener: TransferListener, patience: Patience
) -> Descriptor:
    """Put a document that speaks of another, and make it findable from there."""
    assert document.subject is not None
    blob = Blob.of_document(document, name)
    descriptor = blob.descriptor.model_copy(
        update={"artifact_type": document.artifact_type, "annotations": document.annotations}
    )
    send(destination, [blob], listener, patience)
    if not destination.keeps_account_of(blob):
        _list(destination, document.subject, descriptor, listener, patience)
    return descriptor


def _list(
    destination: Destination,
    subject: Descriptor,
    referrer: Descriptor,
    listener: TransferListener,
    patience: Patience,
) -> None:
    """Add a referrer to the index under the fallback tag, beside those that others add at the same time."""
    name = fallback_tag(subject)
    for attempt in range(_TRIES):
        seen = asked(patience, lambda: destination.tag(name))
        listed = read_index(destination, seen.descriptor, patience).manifests if seen else []
        if any(each.digest == referrer.digest for each in listed):
            return
        index = Blob.of_document(Index(manifests=[*listed, referrer]), "list of referrers")
        send(destination, [index], listener, patience)
        try:
            destination.move_tag(name, index.descriptor, seen)
        except TagMoved:
            if attempt == _TRIES - 1:
                raise
        else:
            return


def read_index(destination: Destination, descriptor: Descriptor, patience: Patience) -> Index:
    """An index, checked by its digest. Raises VerificationError where it is none."""
    content = fetch_content(destination, descriptor, patience)
    try:
        return Index.model_validate_json(content)
    except ValidationError as error:
        raise VerificationError(
            f"{destination.named}: {descriptor.digest[:19]} is no OCI index: {_first(error)}",
            hint="is this a bundle of trtbuild?",
        ) from error


def read_manifest(destination: Destination, descriptor: Descriptor, patience: Patience) -> Manifest:
    """A manifest, checked by its digest. Raises VerificationError where it is none."""
    content = fetch_content(destination, descriptor, patience)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise VerificationError(
            f"{destination.named}: {descriptor.digest[:19]} is no OCI manifest: {_first(error)}",
            hint="is this a bundle of trtbuild?",
        ) from error


def _first(error: ValidationError) -> str:
    return str(error.errors(include_url=False)[0]["msg"])
