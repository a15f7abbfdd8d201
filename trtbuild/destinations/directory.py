"""A folder as a registry: the OCI image layout, which skopeo, oras and crane read and write too.

    oci-layout           {"imageLayoutVersion": "1.0.0"}
    index.json           the tags: descriptors with the annotation org.opencontainers.image.ref.name
    blobs/sha256/<hex>   blobs and documents, read-only

[opencontainers/image-spec v1.1, image-layout.md]
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from trtbuild.core.content import Blob, Descriptor, Index
from trtbuild.core.disk import CHUNK_BYTES, explained, flush, write_atomically
from trtbuild.core.errors import DestinationError
from trtbuild.destinations.protocol import Destination, NotThere, Reached, Tag, TagMoved
from trtbuild.destinations.reference import Reference

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
_REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = '{"imageLayoutVersion": "1.0.0"}\n'


class Directory(Destination):
    """A repository in a folder."""

    def __init__(self, reference: Reference) -> None:
        self.named = reference.place
        self._root = Path(reference.location)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether its file is there, with its size."""
        file = self._file(descriptor)
        return file.is_file() and file.stat().st_size == descriptor.size

    def put(self, blob: Blob, reached: Reached) -> None:
        """Write beside, then link into place."""
        target = self._file(blob.descriptor)
        if self.has(blob.descriptor):
            return
        with explained(self._root):
            self._prepare()
            beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
            try:
                with beside.open("wb") as stream:
                    for chunk in blob.read():
                        stream.write(chunk)
                        reached(stream.tell())
                    stream.flush()
                    os.fsync(stream.fileno())
                beside.chmod(0o444)
                beside.replace(target)
                flush(target.parent)
            finally:
                beside.unlink(missing_ok=True)

    def read(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Read its file."""
        try:
            with self._file(descriptor).open("rb") as stream:
                stream.seek(start)
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError as error:
            raise NotThere(f"{self.named} has no {descriptor.digest}", hint="it was published incompletely") from error
        except OSError as error:
            raise DestinationError(f"{self.named} cannot be read: {error.strerror}") from error

    def tag(self, name: str) -> Tag | None:
        """Look into index.json."""
        for each in self._index().manifests:
            if (each.annotations or {}).get(_REF_NAME) == name:
                return Tag(each.plain, each.digest)
        return None

    def move_tag(self, name: str, to: Descriptor, seen: Tag | None) -> None:
        """Write index.json anew, under a lock."""
        with explained(self._root):
            self._prepare()
            with FileLock(self._root / ".lock"):
                if self.tag(name) != seen:
                    raise TagMoved(name, self.named)
                others = [each for each in self._index().manifests if (each.annotations or {}).get(_REF_NAME) != name]
                entry = to.model_copy(update={"annotations": {**(to.annotations or {}), _REF_NAME: name}})
                write_atomically(self._root / INDEX_FILE, Index(manifests=[*others, entry]).content())

    def tags(self) -> list[str]:
        """What index.json names."""
        names = [(each.annotations or {}).get(_REF_NAME) for each in self._index().manifests]
        return sorted(name for name in names if name)

    def _prepare(self) -> None:
        (self._root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if not (self._root / LAYOUT_FILE).exists():
            write_atomically(self._root / LAYOUT_FILE, _LAYOUT)

    def _file(self, descriptor: Descriptor) -> Path:
        return self._root / "blobs" / "sha256" / descriptor.hex

    def _index(self) -> Index:
        try:
            return Index.model_validate_json((self._root / INDEX_FILE).read_bytes())
        except FileNotFoundError:
            return Index(manifests=[])
        except (OSError, ValidationError) as error:
            raise DestinationError(
                f"{self._root / INDEX_FILE} cannot be read: {str(error).splitlines()[0]}",
                hint="is this a folder that `trtbuild publish` or another OCI tool wrote?",
            ) from error
