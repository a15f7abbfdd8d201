"""Content by its digest, and the documents that list it, as the OCI image specification writes them.

Every destination keeps the same blobs and the same documents, so that a bundle has one digest wherever it lies.
[opencontainers/image-spec v1.1: descriptor.md, manifest.md, image-index.md]
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from trtbuild.core.disk import CHUNK_BYTES
from trtbuild.core.errors import VerificationError
from trtbuild.core.values import canonical_json

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
"""Of the config of a manifest that needs none: `{}`."""
MAX_DOCUMENT_BYTES = 4 << 20
"""What registries take as a manifest at most [distribution-spec, "Pushing manifests"]; larger ones are not read."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _is_digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no sha256 digest")
    return text


Digest = Annotated[str, AfterValidator(_is_digest)]
"""`sha256:` and 64 hexadecimal digits; other algorithms are refused."""


class Document(BaseModel):
    """What the specification defines. Unknown keys are passed over, since it may grow."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    def content(self) -> bytes:
        """Its bytes: canonical, so that equal documents have equal digests."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True)).encode()


class Platform(Document):
    """Where content runs."""

    os: str
    architecture: str


class Descriptor(Document):
    """One blob or document: its type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int = Field(ge=0)
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None
    platform: Platform | None = None

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.partition(":")[2]

    @property
    def is_document(self) -> bool:
        """Whether registries keep it as a manifest rather than as a blob."""
        return self.media_type in (MANIFEST_TYPE, INDEX_TYPE)

    @property
    def plain(self) -> Descriptor:
        """Type, digest and size alone."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)


class Manifest(Document):
    """Blobs that belong together, under a config that says what they are."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = MANIFEST_TYPE
    artifact_type: str | None = None
    config: Descriptor
    layers: list[Descriptor]
    subject: Descriptor | None = None
    """The document that this one speaks of, which makes it a referrer."""
    annotations: dict[str, str] | None = None


class Index(Document):
    """Manifests to choose from."""

    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.index.v1+json"] = INDEX_TYPE
    artifact_type: str | None = None
    manifests: list[Descriptor]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True)
class Blob:
    """Content that can be sent: its descriptor, and the file or the bytes it is read from."""

    descriptor: Descriptor
    source: Path | bytes
    name: str
    """For people who watch."""

    @classmethod
    def of(cls, content: bytes, media_type: str, name: str) -> Blob:
        """A blob of bytes."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return cls(Descriptor(media_type=media_type, digest=digest, size=len(content)), content, name)

    @classmethod
    def of_document(cls, document: Manifest | Index, name: str) -> Blob:
        """A document as registries take it."""
        return cls.of(document.content(), document.media_type, name)

    def read(self, start: int = 0) -> Iterator[bytes]:
        """Its bytes from a position on.

        Read from the beginning, they are hashed on the way: raises VerificationError before the last chunk is given
        where they are not what the descriptor says, so that no receiver can complete the wrong content.
        """
        digest = hashlib.sha256()
        held, size = b"", start
        for chunk in self._chunks(start):
            size += len(chunk)
            if start == 0:
                digest.update(chunk)
            if held:
                yield held
            held = chunk
        if size != self.descriptor.size or (start == 0 and digest.hexdigest() != self.descriptor.hex):
            raise VerificationError(
                f"{self.name} is not the file that the bundle was made of: it was changed",
                hint="run `trtbuild verify` on the bundle, and package it again",
            )
        yield held

    def _chunks(self, start: int) -> Iterator[bytes]:
        if isinstance(self.source, bytes):
            yield self.source[start:]
            return
        with self.source.open("rb") as stream:
            stream.seek(start)
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
