"""A bundle to a destination: blobs first, documents, what vouches for it, and last of all the tag."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from trtbuild.bundle import contents, verification
from trtbuild.bundle.image import SBOM_TYPE, SIGNATURE_TYPE, Image, image, referrer
from trtbuild.bundle.manifest import SBOM_FILE, Bundle
from trtbuild.bundle.promotion import PROMOTION_TYPE
from trtbuild.core.content import Blob
from trtbuild.core.errors import DataError, DestinationError, StoreError
from trtbuild.core.events import TransferListener
from trtbuild.core.shipping import PublishReport
from trtbuild.destinations.referrers import attach
from trtbuild.destinations.transfer import send
from trtbuild.pipeline.published import Place, need_signing, place


def publish(
    bundle: str | Path,
    destination: str,
    *,
    allow_failed: bool = False,
    replace: bool = False,
    mount_from: Sequence[str] = (),
    listener: TransferListener | None = None,
) -> PublishReport:
    """Publish a bundle's folder under its version, or under the tag that the destination names.

    What the destination has already is not sent. Every file is hashed while it is sent, and compared with bundle.json.
    With `replace`, a version that is there with other content is replaced. Blobs that the repositories `mount_from` of
    the same registry hold are mounted.

    Raises DataError where an engine failed its gates (unless `allow_failed`), VerificationError where the bundle was
    changed, DestinationError where the destination cannot be reached or refuses.
    """
    began = time.perf_counter()
    folder, listener = Path(bundle), listener or TransferListener()
    read, signatures = _checked(folder, allow_failed)
    made = image(read, folder)
    with place(destination, writing=True, mount_from=mount_from) as at:
        name = at.reference.tag or read.version
        reference = at.reference.tagged(name)
        seen = at.tag(name)
        if seen is not None and seen.descriptor.digest != made.index.descriptor.digest:
            _may_replace(at, name, replace)
        blobs = _each_once([*made.blobs, *made.manifests, made.index])
        listener.announced({blob.name: blob.descriptor.size for blob in blobs})
        sent = send(at.destination, blobs, listener, at.patience)
        for name_of_file, content in signatures.items():
            _attach(at, made, Blob.of(content, SIGNATURE_TYPE, name_of_file), SIGNATURE_TYPE, listener)
        bill = Blob.of((folder / SBOM_FILE).read_bytes(), SBOM_TYPE, SBOM_FILE)
        _attach(at, made, bill, SBOM_TYPE, listener)
        if seen is None or seen.descriptor.digest != made.index.descriptor.digest:
            at.destination.move_tag(name, made.index.descriptor.plain, seen)
    total = sum(blob.descriptor.size for blob in blobs)
    return PublishReport(
        bundle=str(folder),
        reference=str(reference),
        digest=made.index.descriptor.digest,
        tags=[name],
        sent_bytes=sent,
        there_bytes=total - sent,
        signatures=len(signatures),
        elapsed_s=round(time.perf_counter() - began, 3),
    )


def _checked(folder: Path, allow_failed: bool) -> tuple[Bundle, dict[str, bytes]]:
    """The bundle and its signatures, after all but the digests of large files was checked."""
    if folder.is_file():
        raise StoreError(f"{folder} is a file", hint=f"unpack it first: mkdir bundle && tar -C bundle -xf {folder}")
    with contents.opened(folder) as read:
        bundle = verification.read_bundle(read)
        present = verification.present_engines(bundle, read)
        if len(present) < len(bundle.engines):
            raise StoreError(
                f"{folder} holds {len(present)} of the {len(bundle.engines)} engines of its bundle",
                hint="pull it with --all before publishing it elsewhere",
            )
        if bundle.failed and not allow_failed:
            engine = bundle.failed[0]
            raise DataError(
                f"{engine.name} failed its gates: {'; '.join(engine.verdict.reasons)}",
                hint="package it without that engine, or say --allow-failed here too",
            )
        statement = verification.check_statement(bundle, read)
        signatures = {path: read.read(path, verification.MAX_ENVELOPE_BYTES) for path in read.signatures}
        if signatures:
            need_signing()
            verification.check_signatures(statement, signatures, {}, 1, str(folder))
    return bundle, signatures


def _may_replace(at: Place, name: str, replace: bool) -> None:
    tag = at.tag(name)
    if tag is not None and at.index(tag.descriptor).artifact_type == PROMOTION_TYPE:
        raise DestinationError(
            f"{name} is an alias of {at.reference.place}, not a version",
            hint=f"publish under a version, then `trtbuild promote {at.reference.place}:VERSION {name}`",
        )
    if not replace:
        raise DestinationError(
            f"{at.reference.place} has another bundle as {name}",
            hint="give this one another version (`trtbuild package --version`), or say --replace",
        )


def _each_once(blobs: Sequence[Blob]) -> list[Blob]:
    """Blobs without those that repeat a digest: two engines may share a plugin or a file."""
    return list({blob.descriptor.digest: blob for blob in reversed(blobs)}.values())[::-1]


def _attach(at: Place, made: Image, content: Blob, artifact_type: str, listener: TransferListener) -> None:
    blobs, manifest = referrer(made.index.descriptor, content, artifact_type)
    send(at.destination, blobs, listener, at.patience)
    attach(at.destination, manifest, f"{content.name} referrer", listener, at.patience)
