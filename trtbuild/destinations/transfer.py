"""Send and fetch: resumed where it was cut, tried again while there is progress, every byte checked by its digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from trtbuild.core.content import MAX_DOCUMENT_BYTES, Blob, Descriptor
from trtbuild.core.disk import CHUNK_BYTES, explained
from trtbuild.core.errors import VerificationError
from trtbuild.core.events import TransferListener
from trtbuild.destinations.hashing import BackgroundSha256
from trtbuild.destinations.patience import Patience
from trtbuild.destinations.protocol import Destination, Interrupted

T = TypeVar("T")
PART_SUFFIX = ".part"
"""Of a file that is not complete; a later fetch goes on from its end."""
_MOST_CUTS = 64
"""Of one blob, without getting further than ever before: a place that cannot resume may need that many beginnings."""


def asked(patience: Patience, question: Callable[[], T]) -> T:
    """Ask a place something small, again while it is worth it."""
    patience.begin()
    while True:
        try:
            answer = question()
        except Interrupted as error:
            patience.wait(error)
        else:
            patience.progressed()
            return answer


def send(destination: Destination, blobs: Iterable[Blob], listener: TransferListener, patience: Patience) -> int:
    """Put blobs, leaving out those that are there. Returns how many bytes were sent."""
    sent = 0
    for blob in blobs:
        if asked(patience, partial(destination.has, blob.descriptor)):
            listener.already_there(blob.name)
            continue
        _put(destination, blob, listener, patience)
        sent += blob.descriptor.size
    return sent


def _put(destination: Destination, blob: Blob, listener: TransferListener, patience: Patience) -> None:
    position = record = cuts = 0

    def reached(now_at: int) -> None:
        nonlocal position
        if now_at > position:  # where a place cannot resume, each try that moves bytes is progress
            patience.progressed()
        position = now_at
        listener.reached(blob.name, now_at)

    patience.begin()
    while True:
        try:
            destination.put(blob, reached)
        except Interrupted as error:
            listener.interrupted(blob.name, error.message)
            cuts, record = (0, position) if position > record else (cuts + 1, record)
            if cuts > _MOST_CUTS:
                raise
            patience.wait(error)
            if not asked(patience, partial(destination.has, blob.descriptor)):  # the answer alone may have been lost
                continue
        patience.progressed()
        listener.reached(blob.name, blob.descriptor.size)
        return


def fetch(
    destination: Destination,
    descriptor: Descriptor,
    file: Path,
    listener: TransferListener,
    patience: Patience,
) -> None:
    """Write a blob to a file, which appears only when its digest is right; what was fetched before is not again.

    Raises VerificationError where the place holds something else, StoreError where the file cannot be written.
    """
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + PART_SUFFIX)
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _fill(destination, descriptor, part, file.name, listener, patience)
        except VerificationError:
            part.unlink(missing_ok=True)
            if not resumed:
                raise
            _fill(destination, descriptor, part, file.name, listener, patience)  # the old part may have been the fault
        part.replace(file)


def _fill(
    destination: Destination,
    descriptor: Descriptor,
    part: Path,
    name: str,
    listener: TransferListener,
    patience: Patience,
) -> None:
    with part.open("a+b", buffering=0) as stream, BackgroundSha256() as digest:
        stream.seek(0)
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
        position = stream.tell()
        patience.begin()
        empty_answers = 0
        while position < descriptor.size:
            before = position
            try:
                for chunk in destination.read(descriptor, position):
                    position += len(chunk)
                    if position > descriptor.size:
                        raise _wrong(destination, descriptor, "it sends more bytes than were promised")
                    digest.update(chunk)
                    _write(stream, chunk)
                    patience.progressed()
                    listener.reached(name, position)
            except Interrupted as error:
                listener.interrupted(name, error.message)
                patience.wait(error)
            else:
                empty_answers = empty_answers + 1 if position == before else 0
                if empty_answers > 1:
                    raise _wrong(destination, descriptor, f"it ends after {position} of {descriptor.size} bytes")
        os.fsync(stream.fileno())
        found = f"sha256:{digest.hexdigest()}"
    if position != descriptor.size or found != descriptor.digest:
        part.unlink()
        raise _wrong(destination, descriptor, "its digest is another")


def _write(stream: IO[bytes], chunk: bytes) -> None:
    """All of a chunk: without a buffer, a write may take a part only."""
    left = memoryview(chunk)
    while left:
        left = left[stream.write(left) :]


def fetch_content(
    destination: Destination, descriptor: Descriptor, patience: Patience, limit: int = MAX_DOCUMENT_BYTES
) -> bytes:
    """A small blob or document, whole and checked. Raises VerificationError where it is larger than the limit or not
    what its digest says."""
    if descriptor.size > limit:
        raise _wrong(destination, descriptor, f"it has {descriptor.size} bytes, and at most {limit} are read")

    def question() -> bytes:
        content = bytearray()
        for chunk in destination.read(descriptor):
            content += chunk
            if len(content) > descriptor.size:
                break
        return bytes(content)

    content = asked(patience, question)
    if Blob.of(content, descriptor.media_type, "").descriptor.digest != descriptor.digest:
        raise _wrong(destination, descriptor, "its digest is another")
    return content


def _wrong(destination: Destination, descriptor: Descriptor, what: str) -> VerificationError:
    return VerificationError(
        f"{destination.named} does not hold {descriptor.digest[:19]} as it was published: {what}",
        hint="nothing of it was kept; publish the bundle again, or pull from another place",
    )
