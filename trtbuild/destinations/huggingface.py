"""A model repository of the Hugging Face Hub: `blobs/sha256/<hex>` and `tags/<name>` as files of its main branch.

Blobs are prepared, and sent with the commit that moves a tag, so that a reader sees all of them or none. A commit names
its parent; the Hub refuses it where somebody else was faster. The token is HF_TOKEN's, or the one that `hf auth login`
stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, hf_raise_for_status
from pydantic import ValidationError

from trtbuild.core.content import Blob, Descriptor
from trtbuild.core.errors import DestinationError, VerificationError
from trtbuild.destinations.protocol import Destination, Interrupted, NotThere, Reached, Tag, TagMoved
from trtbuild.destinations.reference import Reference

_REVISION = "main"
_READ_BYTES = 1 << 20
_FIRST_TIMEOUT = httpx2.Timeout(4, connect=3)
"""Until the Hub has answered once, so that one that does not is known within ten seconds."""
_TIMEOUT = httpx2.Timeout(30, connect=3)
_CONFLICT = (409, 412)
_BUSY = (408, 429, 500, 502, 503, 504)
_HINT = "set HF_TOKEN, or run `hf auth login`, with a token that may write there"


class HuggingFaceHub(Destination):
    """A model repository."""

    def __init__(self, reference: Reference) -> None:
        self.named = reference.place
        self._repository = reference.location
        self._api = HfApi(library_name="trtbuild")
        self._answered = False
        self._pending: dict[str, CommitOperationAdd] = {}
        disable_progress_bars()

    def has(self, descriptor: Descriptor) -> bool:
        """Whether its file is in the repository, or waits for the next commit."""
        path = _path(descriptor)
        if path in self._pending:
            return True
        with self._explained():
            found: list[Any] = self._api.get_paths_info(self._repository, [path], revision=_REVISION)
        return bool(found) and found[0].size == descriptor.size

    def put(self, blob: Blob, reached: Reached) -> None:
        """Send a large file to the Hub's storage, and keep it for the next commit."""
        source = blob.source if isinstance(blob.source, bytes) else str(blob.source)
        addition = CommitOperationAdd(_path(blob.descriptor), source)
        if addition.upload_info.sha256.hex() != blob.descriptor.hex:
            raise VerificationError(
                f"{blob.name} is not the file that the bundle was made of: it was changed",
                hint="run `trtbuild verify` on the bundle, and package it again",
            )
        with self._explained():
            self._api.preupload_lfs_files(self._repository, [addition], revision=_REVISION, free_memory=False)
        self._pending[addition.path_in_repo] = addition
        reached(blob.descriptor.size)

    def read(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Stream it, from a position on."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._explained(), self._got(_path(descriptor), _REVISION, headers) as response:
                if response.status_code == 416:
                    return
                skip = start if response.status_code == 200 else 0
                for chunk in response.iter_raw(_READ_BYTES):
                    if skip < len(chunk):
                        yield chunk[skip:]
                    skip = max(0, skip - len(chunk))
        except NotThere as error:
            raise NotThere(f"{self.named} has no {descriptor.digest}", hint=error.hint) from error

    def tag(self, name: str) -> Tag | None:
        """Read its file."""
        return self._tag_at(name, _REVISION)

    def move_tag(self, name: str, to: Descriptor, seen: Tag | None) -> None:
        """Commit what is pending together with the tag's file, on top of the state in which the tag was read."""
        with self._explained(writing=True):
            head = self._api.model_info(self._repository, revision=_REVISION).sha
        if self._tag_at(name, head or _REVISION) != seen:
            raise TagMoved(name, self.named)
        tag_file = CommitOperationAdd(f"tags/{name}", to.plain.content())
        try:
            with self._explained(writing=True):
                self._api.create_commit(
                    self._repository,
                    [*self._pending.values(), tag_file],
                    commit_message=f"trtbuild: {name} is {to.digest[:19]}",
                    revision=_REVISION,
                    parent_commit=head,
                )
        except _Conflict as error:
            raise TagMoved(name, self.named) from error
        self._pending.clear()

    def tags(self) -> list[str]:
        """List their files."""
        with self._explained():
            try:
                listed = self._api.list_repo_tree(self._repository, "tags", revision=_REVISION)
                return sorted(each.path.rpartition("/")[2] for each in listed)
            except EntryNotFoundError:
                return []

    def _tag_at(self, name: str, revision: str) -> Tag | None:
        try:
            with self._explained(), self._got(f"tags/{name}", revision, {}) as response:
                descriptor = Descriptor.model_validate_json(response.read())
        except NotThere:
            return None
        except ValidationError as error:
            raise DestinationError(f"the tag {name} of {self.named} holds no descriptor", hint="delete it") from error
        return Tag(descriptor, descriptor.digest)

    @contextmanager
    def _got(self, path: str, revision: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        with get_session().stream(
            "GET",
            hf_hub_url(self._repository, path, revision=revision),
            headers={**build_hf_headers(library_name="trtbuild"), **headers, "Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=_TIMEOUT if self._answered else _FIRST_TIMEOUT,
        ) as response:
            self._answered = True
            if response.status_code != 416:
                hf_raise_for_status(response)
            yield response

    @contextmanager
    def _explained(self, *, writing: bool = False) -> Iterator[None]:
        """Turn what the library raises into what it means."""
        try:
            yield
        except EntryNotFoundError as error:
            raise NotThere(f"{self.named} lacks a file", hint="it was published incompletely, or deleted") from error
        except RepositoryNotFoundError as error:
            raise DestinationError(
                f"{self.named}: there is no such repository, or this token may not see it",
                hint=f"create it with `hf repo create {self._repository}`; {_HINT}",
            ) from error
        except HFValidationError as error:
            raise DestinationError(f"{self.named} names no repository", hint="write hf://owner/repository") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in _CONFLICT:
                raise _Conflict(f"{self.named} was changed by somebody else meanwhile") from error
            if status in _BUSY:
                raise Interrupted(f"{self.named} answers {status}", answered=True) from error
            doing = "writing" if writing else "reading"
            raise DestinationError(f"{self.named} refuses {doing} with status {status}", hint=_HINT) from error
        except httpx2.TransportError as error:
            raise Interrupted(f"{self.named} cannot be reached: {str(error) or type(error).__name__}") from error


class _Conflict(DestinationError):
    """A commit whose parent is not the newest."""


def _path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"
