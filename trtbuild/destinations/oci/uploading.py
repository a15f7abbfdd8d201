"""One blob into a registry: in chunks that are resumed where the registry can, mounted where another repository has it.

Cut between two chunks, an upload goes on. Cut inside a chunk, it goes on where the registry says how much it has;
docker-registry 2.8 keeps the part but refuses to go on from it, so that there the blob begins again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trtbuild.core.content import Blob
from trtbuild.core.disk import CHUNK_BYTES
from trtbuild.core.errors import DestinationError
from trtbuild.destinations.oci.session import Session
from trtbuild.destinations.protocol import Interrupted, Reached

UPLOAD_CHUNK_BYTES = 16 * CHUNK_BYTES
"""64 MiB: read in pieces, never in memory as a whole."""
_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
_NO_CHUNKS = (400, 404, 405, 411, 415, 416, 501)
"""What registries that take no chunks say to the first."""


class Uploads:
    """The uploads of one repository. One that was cut is found again by the blob's digest."""

    def __init__(self, session: Session, mount_from: Sequence[str]) -> None:
        self._session = session
        self._mount_from = mount_from
        self._open: dict[str, str] = {}
        """Where to go on with a blob."""
        self._takes_chunks = True

    def put(self, blob: Blob, reached: Reached) -> None:
        """Mount or send a blob. Raises Interrupted where it was cut; call again to go on."""
        digest, size = blob.descriptor.digest, blob.descriptor.size
        location = self._open.pop(digest, "")
        position = 0
        if location:
            location, position = self._resumed(location)
        if not location:
            location = self._begun(digest)
            if not location:
                return
        reached(position)
        while self._takes_chunks and size - position > 0 and size > UPLOAD_CHUNK_BYTES:
            length = min(UPLOAD_CHUNK_BYTES, size - position)
            self._open[digest] = location
            next_location = self._chunk(blob, location, position, length, reached)
            if not next_location:
                self._takes_chunks = False
                location, position = self._begun(digest), 0
                break
            location, position = next_location, position + length
        self._open.pop(digest, None)
        self._finish(blob, location, position, reached)

    def _begun(self, digest: str) -> str:
        """Where to upload to; empty where the blob was mounted instead."""
        for other in self._mount_from:
            response = self._session.request(
                "POST",
                self._session.url(f"blobs/uploads/?mount={digest}&from={other}"),
                accept=(201, 202),
            )
            if response.status_code == 201:
                return ""
            self._session.request("DELETE", self._session.located(response), accept=(200, 202, 204, 404, 405))
        response = self._session.request("POST", self._session.url("blobs/uploads/"), accept=(202,))
        return self._session.located(response)

    def _resumed(self, location: str) -> tuple[str, int]:
        """Where to go on, and from which byte; nowhere, where the registry has lost or spoiled the upload."""
        response = self._session.request("GET", location, accept=(204, 202, 404, 400, 416))
        arrived = _RANGE.fullmatch(response.headers.get("Range", ""))
        if response.status_code not in (204, 202) or arrived is None:
            return "", 0
        last = int(arrived[1])
        return self._session.located(response), last + 1 if last else 0

    def _chunk(self, blob: Blob, location: str, position: int, length: int, reached: Reached) -> str:
        """Send one chunk; returns where the next goes, or nothing where the registry takes no chunks."""
        response = self._session.request(
            "PATCH",
            location,
            headers={
                "Content-Type": _OCTETS,
                "Content-Length": str(length),
                "Content-Range": f"{position}-{position + length - 1}",
            },
            content=lambda: _piece(blob, position, length, reached),
            accept=(202, *(_NO_CHUNKS if position == 0 else (404, 416))),
        )
        if response.status_code == 202:
            return self._session.located(response)
        if position:
            self._open.pop(blob.descriptor.digest, None)
            raise Interrupted(f"{self._session.host} lost the upload of {blob.name} after {position} bytes")
        return ""

    def _finish(self, blob: Blob, location: str, position: int, reached: Reached) -> None:
        """Send what is left with the digest, which the registry compares with what it got."""
        left = blob.descriptor.size - position
        separator = "&" if "?" in location else "?"
        response = self._session.request(
            "PUT",
            f"{location}{separator}digest={blob.descriptor.digest}",
            headers={"Content-Type": _OCTETS, "Content-Length": str(left)},
            content=(lambda: _piece(blob, position, left, reached)) if left else b"",
            accept=(201, 404, 416),
        )
        if response.status_code != 201:
            raise Interrupted(f"{self._session.host} lost the upload of {blob.name} before its end")
        told = response.headers.get("Docker-Content-Digest", blob.descriptor.digest)
        if told != blob.descriptor.digest:
            raise DestinationError(f"{self._session.host} keeps {blob.name} as {told}, not as {blob.descriptor.digest}")


def _piece(blob: Blob, position: int, length: int, reached: Reached) -> Iterator[bytes]:
    """So many bytes from a position on. Each next chunk is asked for when the one before is sent."""
    sent = 0
    for chunk in blob.read(position):
        part = chunk[: length - sent]
        yield part
        sent += len(part)
        reached(position + sent)
        if sent == length:
            return
