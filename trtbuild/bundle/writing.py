"""A bundle onto the disk: every byte hashed on the way, equal inputs giving equal bytes."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trtbuild.bundle.manifest import (
    BUNDLE_FILE,
    MAX_MANIFEST_BYTES,
    PROVENANCE_FILE,
    SBOM_FILE,
    Bundle,
    EngineEntry,
    FileEntry,
)
from trtbuild.bundle.sbom import sbom
from trtbuild.bundle.statement import statement
from trtbuild.core import machine
from trtbuild.core.disk import CHUNK_BYTES, flush, sha256_of
from trtbuild.core.errors import DataError, VerificationError


@dataclass(frozen=True)
class EngineSource:
    """An engine on its way into a bundle."""

    folder: Path
    manifest: Mapping[str, Any]
    """Its own, as `build` wrote it."""
    entry: EngineEntry
    plugins: Mapping[str, Path]
    """Shared libraries by their path in the bundle."""


def write(
    folder: Path, recipe: str, version: str, model: str, engines: Sequence[EngineSource], allow_failed: bool
) -> Bundle:
    """Everything but signatures into an empty folder.

    Raises VerificationError where a file is not the one that was built, DataError where there are too many.
    """
    created = creation_time([engine.manifest for engine in engines])
    shared: dict[str, FileEntry] = {}
    for engine in engines:
        for path, file in engine.entry.files.items():
            _copy(engine.folder / Path(path).name, folder / path, file)
        for path, library in engine.plugins.items():
            shared[path] = FileEntry(bytes=library.stat().st_size, sha256=sha256_of(library))
            _copy(library, folder / path, shared[path])
    manifests = {engine.entry.name: engine.manifest for engine in engines}
    entries = [engine.entry for engine in engines]
    bill = sbom(recipe, version, created, entries, manifests)
    shared[SBOM_FILE] = FileEntry(bytes=len(bill), sha256=hashlib.sha256(bill).hexdigest())
    bundle = Bundle(
        recipe=recipe,
        version=version,
        created=created,
        trtbuild=machine.package_version("trtbuild") or "",
        model=model,
        allow_failed=allow_failed,
        engines=entries,
        files=dict(sorted(shared.items())),
    )
    content = bundle.content()
    if len(content) > MAX_MANIFEST_BYTES:
        raise DataError(f"{len(bundle.all_files)} files are too many for a bundle", hint="package fewer engines")
    proof = statement(bundle, hashlib.sha256(content).hexdigest(), manifests)
    for name, written in ((SBOM_FILE, bill), (BUNDLE_FILE, content), (PROVENANCE_FILE, proof)):
        (folder / name).write_bytes(written)
        flush(folder / name)
    return bundle


def creation_time(engine_manifests: Sequence[Mapping[str, Any]]) -> str:
    """SOURCE_DATE_EPOCH [reproducible-builds.org], else when the youngest step of any engine was finished: never now,
    so that packaging again gives the same bytes. RFC 3339, UTC."""
    steps = [step for manifest in engine_manifests for step in manifest["steps"].values()]
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or max(step["finished_at"] for step in steps)
    try:
        moment = datetime.fromtimestamp(int(float(seconds)), timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise DataError(f"SOURCE_DATE_EPOCH is {seconds!r}", hint="set it to seconds since 1970") from error
    return moment.isoformat()


def archive(folder: Path, created: str, target: Path) -> None:
    """A bundle's folder as one tar file: sorted, without owners, all of one time."""
    moment = int(datetime.fromisoformat(created).timestamp())
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tarfile.open(beside, "w", format=tarfile.PAX_FORMAT) as tar:
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                member = tarfile.TarInfo(file.relative_to(folder).as_posix())
                member.size, member.mtime, member.mode = file.stat().st_size, moment, 0o644
                with file.open("rb") as stream:
                    tar.addfile(member, stream)
        flush(beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _copy(source: Path, target: Path, expected: FileEntry) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while chunk := read.read(CHUNK_BYTES):
            digest.update(chunk)
            written.write(chunk)
        written.flush()
        os.fsync(written.fileno())
    if digest.hexdigest() != expected.sha256:
        raise VerificationError(
            f"{source}: its bytes are not the ones that were built and validated",
            hint="delete the folder and build again",
        )
