"""A bundle as a destination holds it: from a tag to bundle.json, its statement and its signatures, all checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtbuild.bundle.image import BUNDLE_TYPE, SIGNATURE_TYPE, layer
from trtbuild.bundle.manifest import MAX_MANIFEST_BYTES, PROVENANCE_FILE, Bundle
from trtbuild.bundle.promotion import PROMOTION_TYPE, Promotion, read_promotion
from trtbuild.bundle.statement import MAX_STATEMENT_BYTES
from trtbuild.bundle.verification import MAX_ENVELOPE_BYTES, check_signatures, check_subjects
from trtbuild.core import machine
from trtbuild.core.content import INDEX_TYPE, MAX_DOCUMENT_BYTES, Descriptor, Index, Manifest
from trtbuild.core.errors import BackendMissing, DestinationError, VerificationError
from trtbuild.destinations import open_destination
from trtbuild.destinations.patience import Patience
from trtbuild.destinations.protocol import Destination, Tag
from trtbuild.destinations.reference import Reference
from trtbuild.destinations.referrers import read_index, read_manifest, referrers
from trtbuild.destinations.transfer import asked, fetch_content

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

_MOST_SIGNATURES = 50


@dataclass(frozen=True)
class Place:
    """A destination in use."""

    reference: Reference
    destination: Destination
    patience: Patience

    def tag(self, name: str) -> Tag | None:
        """What a tag points to."""
        return asked(self.patience, lambda: self.destination.tag(name))

    def described(self, digest: str) -> Descriptor:
        """An index of which only the digest is known, with its size."""
        unsized = Descriptor(media_type=INDEX_TYPE, digest=digest, size=MAX_DOCUMENT_BYTES)
        content = fetch_content(self.destination, unsized, self.patience)
        return unsized.model_copy(update={"size": len(content)})

    def index(self, descriptor: Descriptor) -> Index:
        """An index, checked."""
        return read_index(self.destination, descriptor, self.patience)


@dataclass(frozen=True)
class Found:
    """What a reference leads to."""

    descriptor: Descriptor
    """Of the bundle's index."""
    index: Index
    promotion: Promotion | None
    """Where the reference was an alias."""


@dataclass(frozen=True)
class Published:
    """A bundle at a destination, nothing of its engines fetched."""

    found: Found
    bundle: Bundle
    content: bytes
    """bundle.json."""
    statement: bytes
    envelopes: dict[str, bytes]
    """Signatures, by the name of their file."""
    signed_by: list[str]
    """The files of the keys that signed, of those that were given."""


@contextmanager
def place(text: str, *, writing: bool = False, mount_from: Sequence[str] = ()) -> Iterator[Place]:
    """Use the destination that a reference names."""
    reference = Reference.parse(text)
    destination = open_destination(reference)
    try:
        if writing:
            destination.will_write(mount_from)
        yield Place(reference, destination, Patience())
    finally:
        destination.close()


def find(at: Place) -> Found:
    """The bundle that a reference leads to, through an alias or not.

    Raises DestinationError where there is none, VerificationError where something else is.
    """
    reference = at.reference
    if reference.digest is not None:
        descriptor = at.described(reference.digest)
    elif reference.tag is not None:
        tag = at.tag(reference.tag)
        if tag is None:
            raise DestinationError(f"{reference.place} has no {reference.tag}", hint=_there_are(at))
        descriptor = tag.descriptor
    else:
        raise DestinationError(f"{reference} names no version", hint=_there_are(at))
    return follow(at, descriptor)


def follow(at: Place, descriptor: Descriptor) -> Found:
    """The bundle behind an index, which is the bundle's own or a promotion's."""
    index = at.index(descriptor)
    promotion = None
    if index.artifact_type == PROMOTION_TYPE:
        promotion, descriptor = read_promotion(index, str(at.reference))
        index = at.index(descriptor)
    if index.artifact_type != BUNDLE_TYPE:
        raise VerificationError(f"{at.reference} is no bundle of trtbuild", hint="`trtbuild versions` lists bundles")
    return Found(descriptor.plain, index, promotion)


def read_published(at: Place, found: Found, keys: Sequence[Path], threshold: int) -> Published:
    """bundle.json and what vouches for it. With keys, `threshold` of them must have signed.

    Raises VerificationError where one speaks of another bundle, or a signature is missing.
    """
    where = str(at.reference)
    manifest = _bundle_manifest(at, found)
    content = fetch_content(at.destination, manifest.config, at.patience, MAX_MANIFEST_BYTES)
    bundle = Bundle.parse(content, where)
    proof = layer(manifest, PROVENANCE_FILE)
    if proof is None:
        raise VerificationError(f"{where} carries no {PROVENANCE_FILE}", hint="publish it again")
    statement = fetch_content(at.destination, proof, at.patience, MAX_STATEMENT_BYTES)
    check_subjects(statement, content, bundle, where)
    envelopes = dict(_signatures(at, found))
    loaded = load_keys(keys)
    signed_by = check_signatures(statement, envelopes, loaded, threshold, where)
    return Published(found, bundle, content, statement, envelopes, signed_by)


def load_keys(files: Sequence[Path]) -> dict[str, SSlibKey]:
    """Public keys by the names of their files. Raises BackendMissing without the library, DataError for no key."""
    if not files:
        return {}
    need_signing()
    from trtbuild.bundle.keys import public_key

    return {str(file): public_key(file) for file in files}


def need_signing() -> None:
    """Raise BackendMissing where nothing can sign or check signatures."""
    missing = [name for name in ("securesystemslib", "cryptography") if machine.package_version(name) is None]
    if missing:
        raise BackendMissing(f"signatures need {', '.join(missing)}", hint="pip install 'trtbuild[publish]'")


def own_tags(at: Place) -> list[str]:
    """The tags of a place that name bundles: lists of referrers left out."""
    tags = asked(at.patience, at.destination.tags)
    return [tag for tag in tags if not tag.startswith("sha256-")]


def _bundle_manifest(at: Place, found: Found) -> Manifest:
    own = next((each for each in found.index.manifests if each.artifact_type == BUNDLE_TYPE), None)
    if own is None:
        raise VerificationError(f"{at.reference} lists no bundle manifest", hint="publish it again")
    return read_manifest(at.destination, own, at.patience)


def _signatures(at: Place, found: Found) -> Iterator[tuple[str, bytes]]:
    listed = referrers(at.destination, found.descriptor, at.patience, SIGNATURE_TYPE)
    for each in listed[:_MOST_SIGNATURES]:
        manifest = read_manifest(at.destination, each, at.patience)
        if manifest.subject is None or manifest.subject.digest != found.descriptor.digest or not manifest.layers:
            continue
        content = fetch_content(at.destination, manifest.layers[0], at.patience, MAX_ENVELOPE_BYTES)
        need_signing()
        from trtbuild.bundle import envelope

        yield envelope.file_name(content, str(at.reference)), content


def _there_are(at: Place) -> str:
    tags = own_tags(at)
    return f"there are: {', '.join(tags[:20])}" if tags else "it holds nothing yet: `trtbuild publish` puts it there"
