"""Files on a disk that others read and that may be full: hashed in chunks, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trtbuild.core.errors import StoreError

CHUNK_BYTES = 1 << 22
"""How much of a file is in memory at a time."""
FULL_DISK_HINT = "free some space, or run `trtbuild cache gc`; what was finished is kept"


def sha256_of(file: Path) -> str:
    """The sha256 (hex) of a file, read in chunks."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part, even after a power cut."""
    beside = file.with_name(f".{file.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(file)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        flush(file.parent)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def swap(new: Path, target: Path) -> None:
    """Put a folder in another's place. A reader sees the old one or the new one, for an instant none, never a
    mixture."""
    old = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    if target.exists():
        target.rename(old)
    new.rename(target)
    flush(target.parent)
    discard(old)


def discard(folder: Path) -> None:
    """Remove a folder that may hold read-only files."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write at a place into a StoreError with the next thing to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{place} cannot be written: {error.strerror or error}",
            hint=FULL_DISK_HINT
            if error.errno == errno.ENOSPC
            else "choose folders you may write with --store (or TRTBUILD_STORE) and --output",
        ) from error
