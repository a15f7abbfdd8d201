"""A repository of a container registry. Registries have no compare-and-swap: a tag is compared, put, and read again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from trtbuild.core.content import INDEX_TYPE, MANIFEST_TYPE, MAX_DOCUMENT_BYTES, Blob, Descriptor, Index
from trtbuild.core.errors import DestinationError
from trtbuild.destinations.oci.session import Session
from trtbuild.destinations.oci.uploading import Uploads
from trtbuild.destinations.protocol import Destination, NotThere, Reached, Tag, TagMoved
from trtbuild.destinations.reference import Reference

_DOCUMENTS = {"Accept": f"{INDEX_TYPE}, {MANIFEST_TYPE}"}
_REGISTRIES = {"docker.io": "registry-1.docker.io"}
"""Hosts whose registry has another name."""
_READ_BYTES = 1 << 20
_MOST_PAGES = 1000


class Registry(Destination):
    """A repository, such as `registry.example.com/team/minilm`."""

    def __init__(self, reference: Reference) -> None:
        self.named = reference.place
        host, _, repository = reference.location.partition("/")
        host = _REGISTRIES.get(host, host)
        self._session = Session(host, repository, plain=reference.scheme == "oci+http")
        self._uploads = Uploads(self._session, ())
        self._accounted: set[str] = set()

    def will_write(self, mount_from: Sequence[str] = ()) -> None:
        """Ask for tokens that allow pushing, and reading from the repositories to mount from."""
        self._session.may_push(*mount_from)
        self._uploads = Uploads(self._session, mount_from)

    def has(self, descriptor: Descriptor) -> bool:
        """Ask for its head."""
        response = self._session.request("HEAD", self._url(descriptor), headers=_DOCUMENTS, accept=(200, 404))
        return response.status_code == 200

    def put(self, blob: Blob, reached: Reached) -> None:
        """Upload a blob, or put a document under its digest."""
        if not blob.descriptor.is_document:
            self._uploads.put(blob, reached)
            return
        response = self._session.request(
            "PUT",
            self._url(blob.descriptor),
            headers={"Content-Type": blob.descriptor.media_type},
            content=b"".join(blob.read()),
            accept=(201,),
        )
        if response.headers.get("OCI-Subject"):
            self._accounted.add(blob.descriptor.digest)

    def read(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Stream it, from a position on where the registry can."""
        headers = {**(_DOCUMENTS if descriptor.is_document else {}), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self._session.stream(
            "GET", self._url(descriptor), headers=headers, accept=(200, 206, 404, 416)
        ) as response:
            if response.status_code == 404:
                raise NotThere(
                    f"{self.named} has no {descriptor.digest}", hint="it was published incompletely, or deleted"
                )
            if response.status_code == 416:
                return
            skip = start if response.status_code == 200 else 0
            for chunk in self._session.chunks(response, _READ_BYTES):
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def tag(self, name: str) -> Tag | None:
        """Read the document it points to, whose digest is computed here."""
        content = bytearray()
        with self._session.stream(
            "GET", self._session.url(f"manifests/{name}"), headers=_DOCUMENTS, accept=(200, 404)
        ) as response:
            if response.status_code == 404:
                return None
            for chunk in self._session.chunks(response, _READ_BYTES):
                content += chunk
                if len(content) > MAX_DOCUMENT_BYTES:
                    raise DestinationError(f"{self.named}:{name} is larger than any manifest may be")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if media_type not in (INDEX_TYPE, MANIFEST_TYPE):
            raise DestinationError(
                f"{self.named}:{name} is {media_type or 'of no type'}, no OCI manifest",
                hint="check that the address is a registry's, and that trtbuild published there",
            )
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return Tag(Descriptor(media_type=media_type, digest=digest, size=len(content)), digest)

    def move_tag(self, name: str, to: Descriptor, seen: Tag | None) -> None:
        """Put the document under the tag; before and after, look whether somebody else moved it."""
        if self.tag(name) != seen:
            raise TagMoved(name, self.named)
        content = b"".join(self.read(to))
        self._session.request(
            "PUT",
            self._session.url(f"manifests/{name}"),
            headers={"Content-Type": to.media_type},
            content=content,
            accept=(201,),
        )
        now = self.tag(name)
        if now is None or now.descriptor.digest != to.digest:
            raise TagMoved(name, self.named)

    def tags(self) -> list[str]:
        """List them, page by page."""
        found: list[str] = []
        url = self._session.url("tags/list?n=500")
        for _ in range(_MOST_PAGES):
            response = self._session.request("GET", url, accept=(200, 404))
            if response.status_code == 404:
                return []
            try:
                found += [str(name) for name in response.json().get("tags") or []]
            except (ValueError, AttributeError) as error:
                raise DestinationError(f"{self.named} lists no tags", hint="is this a registry?") from error
            following = response.links.get("next", {}).get("url")
            if not following:
                break
            url = str(response.request.url.join(following))
        return sorted(found)

    def listed_referrers(self, subject: Descriptor) -> list[Descriptor] | None:
        """Ask the referrers API; registries before OCI 1.1 have none."""
        response = self._session.request(
            "GET", self._session.url(f"referrers/{subject.digest}"), headers=_DOCUMENTS, accept=(200, 400, 404, 405)
        )
        if response.status_code != 200:
            return None
        try:
            return Index.model_validate_json(response.content).manifests
        except ValidationError:
            return None  # a page of a registry that answers every address

    def keeps_account_of(self, referrer: Blob) -> bool:
        """Whether the registry said so by the header OCI-Subject."""
        return referrer.descriptor.digest in self._accounted

    def close(self) -> None:
        """Let the connections go."""
        self._session.close()

    def _url(self, descriptor: Descriptor) -> str:
        return self._session.url(f"{'manifests' if descriptor.is_document else 'blobs'}/{descriptor.digest}")
