"""A bundle from a destination: what vouches for it first, then the engines that fit, and only then a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from trtbuild.bundle.image import file_descriptor
from trtbuild.bundle.manifest import (
    BUNDLE_FILE,
    ENGINES_FOLDER,
    PROVENANCE_FILE,
    SBOM_FILE,
    SIGNATURES_FOLDER,
    Bundle,
    EngineEntry,
    FileEntry,
)
from trtbuild.core.disk import discard, explained, flush, write_atomically
from trtbuild.core.errors import StoreError
from trtbuild.core.events import TransferListener
from trtbuild.core.shipping import PullReport
from trtbuild.core.target import Machine
from trtbuild.destinations.transfer import fetch
from trtbuild.pipeline.choose import choose
from trtbuild.pipeline.package import shipped
from trtbuild.pipeline.published import Place, Published, find, place, read_published

_SPARE_BYTES = 32 << 20
"""What must stay free on the disk beside what is fetched."""


def pull(
    reference: str,
    *,
    output: str | Path | None = None,
    engines: Sequence[str] = (),
    variants: Sequence[str] = (),
    everything: bool = False,
    keys: Sequence[str | Path] = (),
    threshold: int = 1,
    allow_failed: bool = False,
    listener: TransferListener | None = None,
) -> PullReport:
    """Fetch the engine of a bundle that runs best on this machine: by GPU, driver and TensorRT.

    `engines` takes engines by name instead, `everything` all of them; `variants` narrows the choice. With `keys`,
    `threshold` of them must have signed. The bundle's folder (`output`, else `bundles/<recipe>-<version>`) appears when
    every byte was checked; a fetch that was cut is gone on with by the next. A folder that holds the same bundle
    already is added to.

    Raises DestinationError where the destination cannot be reached or nothing fits, VerificationError where something
    is not what was published or signed, StoreError where the folder cannot be written.
    """
    began = time.perf_counter()
    listener = listener or TransferListener()
    with place(reference) as at:
        published = read_published(at, find(at), [Path(key) for key in keys], threshold)
        bundle = published.bundle
        chosen, because = choose(
            bundle,
            Machine.here(),
            engines=engines,
            variants=variants,
            everything=everything,
            allow_failed=allow_failed,
        )
        target = Path(output) if output is not None else Path("bundles") / f"{bundle.recipe}-{bundle.version}"
        staging = target.parent / f".{target.name}.{published.found.descriptor.hex[:12]}"
        with explained(target), _alone(staging):
            files = _files(bundle, chosen, _missing(target, published, chosen), target)
            listener.announced({Path(path).name: file.bytes for path, file in files.items()})
            _fetch_all(at, files, staging, listener)
            _complete(staging, target, published)
    names = [engine.name for engine in chosen]
    return PullReport(
        reference=reference,
        digest=published.found.descriptor.digest,
        bundle=str(target),
        recipe=bundle.recipe,
        version=bundle.version,
        engines=shipped(bundle, names),
        main_files=[str(target / engine.main) for engine in chosen],
        because=because,
        signed_by=published.signed_by,
        fetched_bytes=sum(file.bytes for file in files.values()),
        elapsed_s=round(time.perf_counter() - began, 3),
    )


@contextmanager
def _alone(staging: Path) -> Iterator[None]:
    """Be the only one that fetches into a folder, which may have been renamed when its turn comes; it is left behind
    where something was fetched, for the next to go on with."""
    while True:
        staging.mkdir(parents=True, exist_ok=True)
        held = os.open(staging, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        if staging.is_dir() and staging.stat().st_ino == os.fstat(held).st_ino:
            break
        os.close(held)
    try:
        yield
    finally:
        with suppress(OSError):
            staging.rmdir()
        os.close(held)


def _missing(target: Path, published: Published, chosen: Sequence[EngineEntry]) -> list[EngineEntry]:
    """The engines that the target does not hold yet. Raises StoreError where it holds something else."""
    if not target.exists():
        return list(chosen)
    try:
        same = (target / BUNDLE_FILE).read_bytes() == published.content
    except OSError:
        same = False
    if not same:
        raise StoreError(f"{target} is there and is not this bundle", hint="choose another --output, or remove it")
    return [engine for engine in chosen if not (target / ENGINES_FOLDER / engine.name).is_dir()]


def _files(
    bundle: Bundle, chosen: Sequence[EngineEntry], missing: Sequence[EngineEntry], target: Path
) -> dict[str, FileEntry]:
    shared = {SBOM_FILE, *(plugin.path for engine in chosen for plugin in engine.plugins)}
    files = {path: bundle.files[path] for path in sorted(shared) if not (target / path).exists()}
    return files | {path: file for engine in missing for path, file in engine.files.items()}


def _need_space(staging: Path, files: dict[str, FileEntry]) -> None:
    there = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
    needed = sum(file.bytes for file in files.values()) - there + _SPARE_BYTES
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise StoreError(
            f"{staging.parent} has {free / 1e6:.0f} MB free, and {needed / 1e6:.0f} MB are needed",
            hint="free some space, or choose another --output",
        )


def _fetch_all(at: Place, files: dict[str, FileEntry], staging: Path, listener: TransferListener) -> None:
    try:
        _need_space(staging, files)
        for path, file in files.items():
            if (staging / path).is_file():  # it was complete, and so checked, when it got its name
                listener.already_there(Path(path).name)
                continue
            fetch(at.destination, file_descriptor(file), staging / path, listener, at.patience)
    except StoreError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
            discard(staging)  # what was fetched is worth less than the space that it takes
        raise


def _complete(staging: Path, target: Path, published: Published) -> None:
    """Rename what was fetched into place: as a whole, or engine by engine into the folder that is there."""
    signatures = {f"{SIGNATURES_FOLDER}/{name}": content for name, content in published.envelopes.items()}
    if not target.exists():
        named = {BUNDLE_FILE: published.content, PROVENANCE_FILE: published.statement, **signatures}
        for path, content in named.items():
            write_atomically(staging / path, content)
        staging.rename(target)
    else:
        for path, content in signatures.items():
            write_atomically(target / path, content)
        for entry in sorted(staging.glob("*/*")):
            kept = target / entry.relative_to(staging)
            kept.parent.mkdir(exist_ok=True)
            entry.rename(kept)
        discard(staging)
    flush(target.parent)
