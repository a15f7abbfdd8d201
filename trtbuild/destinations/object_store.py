"""Object stores: S3, Google Cloud Storage, Azure Blob Storage.

    blobs/sha256/<hex>   blobs and documents, never overwritten with other content
    tags/<name>          a descriptor as JSON, replaced by compare-and-swap (If-Match, If-None-Match)

A large blob is one multipart upload, which appears when it is completed, and is completed only when what was sent has
its digest. Credentials come from where each cloud's own tools look: AWS_*, ~/.aws/credentials, instance roles;
GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_*.
"""

from __future__ import annotations

import configparser
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import from_url
from pydantic import ValidationError

from trtbuild.core.content import Blob, Descriptor
from trtbuild.core.errors import DestinationError, VerificationError
from trtbuild.destinations.protocol import Destination, Interrupted, NotThere, Reached, Tag, TagMoved
from trtbuild.destinations.reference import Reference

_PART_BYTES = 8 << 20
"""Of a multipart upload: S3 takes 10,000 parts, so that blobs of 80 GB fit."""
_PARTS_AT_ONCE = 4
"""With their parts in memory: 32 MiB."""
_READ_BYTES = 1 << 20
_FIRST = {"connect_timeout": timedelta(seconds=3), "timeout": timedelta(seconds=4)}
"""Until the store has answered once, so that one that does not is known within ten seconds."""
_READING = {**_FIRST, "read_timeout": timedelta(seconds=30), "timeout": timedelta(hours=1)}
_WRITING = {**_FIRST, "timeout": timedelta(minutes=10)}
"""A store answers the completion of a large upload only after it has put the parts together."""
_INSTANCE_METADATA = "169.254.169.254"
"""Whom the clouds' libraries ask for credentials when they have found none elsewhere."""
_RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(seconds=4)}
"""Of one request; a blob is then begun again by `trtbuild.destinations.transfer`."""
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_PROFILE, or a role), and AWS_REGION",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or a token or identity",
}


class ObjectStore(Destination):
    """A repository below a prefix of a bucket."""

    def __init__(self, reference: Reference) -> None:
        self.named = reference.place
        self._scheme = reference.scheme
        self._answered = False
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        try:
            config: Any = _profile() if reference.scheme == "s3" else {}
            self._first, self._reading, self._writing = (
                self._opened(reference, config, {**client, "allow_http": endpoint.startswith("http://")})
                for client in (_FIRST, _READING, _WRITING)
            )
        except (exceptions.BaseError, ValueError) as error:
            raise DestinationError(
                f"{self.named} cannot be used: {_essence(error)}", hint=_CREDENTIALS[self._scheme]
            ) from error

    @staticmethod
    def _opened(reference: Reference, config: Any, client: Any) -> Any:
        return from_url(reference.place, config=config, client_options=client, retry_config=_RETRIES)

    @property
    def _store(self) -> Any:
        """The library's, with the patience of the moment."""
        return self._reading if self._answered else self._first

    def has(self, descriptor: Descriptor) -> bool:
        """Ask for its size."""
        with self._explained():
            try:
                return bool(obstore.head(self._store, _key(descriptor))["size"] == descriptor.size)
            except FileNotFoundError:
                return False

    def put(self, blob: Blob, reached: Reached) -> None:
        """One request where it is small, else parts. Nothing is completed where the content is not the digest's."""
        broken: list[VerificationError] = []

        def content() -> Iterator[bytes]:
            position = 0
            try:
                for chunk in blob.read():
                    yield chunk
                    position += len(chunk)
                    reached(position)
            except VerificationError as error:
                broken.append(error)
                raise

        with self._explained(writing=True):
            try:
                if blob.descriptor.size <= _PART_BYTES:
                    obstore.put(self._writing, _key(blob.descriptor), b"".join(content()), mode="create")
                else:
                    obstore.put(
                        self._writing,
                        _key(blob.descriptor),
                        content(),
                        use_multipart=True,
                        chunk_size=_PART_BYTES,
                        max_concurrency=_PARTS_AT_ONCE,
                    )
            except exceptions.AlreadyExistsError:
                if not self.has(blob.descriptor):
                    raise DestinationError(
                        f"{self.named} holds another object at {_key(blob.descriptor)}", hint="delete that object"
                    ) from None
            except Exception:
                if broken:
                    raise broken[0] from None
                raise

    def read(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Stream it."""
        with self._explained():
            try:
                options: Any = {"range": {"offset": start}} if start else {}
                yield from map(bytes, obstore.get(self._store, _key(descriptor), options=options).stream(_READ_BYTES))
            except FileNotFoundError as error:
                raise NotThere(
                    f"{self.named} has no {descriptor.digest}", hint="it was published incompletely, or deleted"
                ) from error

    def tag(self, name: str) -> Tag | None:
        """Read its object."""
        with self._explained():
            try:
                found = obstore.get(self._store, f"tags/{name}")
            except FileNotFoundError:
                return None
            content = bytes(found.bytes())
        try:
            state = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}
            return Tag(Descriptor.model_validate_json(content), json.dumps(state))
        except ValidationError as error:
            raise DestinationError(f"the tag {name} of {self.named} holds no descriptor", hint="delete it") from error

    def move_tag(self, name: str, to: Descriptor, seen: Tag | None) -> None:
        """Replace its object, if it is the one seen."""
        mode: Any = "create" if seen is None else json.loads(seen.state)
        with self._explained(writing=True):
            try:
                obstore.put(self._writing, f"tags/{name}", to.plain.content(), mode=mode)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError, FileNotFoundError) as error:
                if seen is None and isinstance(error, FileNotFoundError):
                    raise
                now = self.tag(name)  # the library may have tried again what had been done
                if now is None or now.descriptor != to.plain:
                    raise TagMoved(name, self.named) from error

    def tags(self) -> list[str]:
        """List their objects."""
        with self._explained():
            return sorted(
                each["path"].rpartition("/")[2] for page in obstore.list(self._store, prefix="tags") for each in page
            )

    @contextmanager
    def _explained(self, *, writing: bool = False) -> Iterator[None]:
        """Turn what the library raises into what it means."""
        try:
            yield
            self._answered = True
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise DestinationError(
                f"{self.named} refuses {'writing' if writing else 'reading'} with the credentials found",
                hint=_CREDENTIALS[self._scheme],
            ) from error
        except FileNotFoundError as error:
            raise DestinationError(f"{self.named}: there is no such bucket", hint="create it first") from error
        except exceptions.BaseError as error:
            said = _essence(error)
            if re.search(r"\b416\b|InvalidRange|range started at", said):
                return  # nothing is left to read from there
            if re.search(r"status:? 4\d\d|status 4\d\d", said):
                raise DestinationError(f"{self.named} refuses: {said}", hint=_CREDENTIALS[self._scheme]) from error
            if "credential" in said.lower() or "metadata" in said.lower() or _INSTANCE_METADATA in said:
                raise DestinationError(
                    f"{self.named}: no credentials were found: {said}", hint=_CREDENTIALS[self._scheme]
                ) from error
            raise Interrupted(f"{self.named} cannot be reached: {said}") from error


def _key(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def _essence(error: BaseException) -> str:
    """The library's own sentence: its first line, without the debugging output that follows."""
    lines = str(error.args[0] if error.args else error).strip().splitlines()
    return " ".join(lines[0].split())[:300] if lines else type(error).__name__


def _profile() -> dict[str, Any]:
    """Keys of the profile in ~/.aws/credentials, where the environment holds none: the library does not read it."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    profile = os.environ.get("AWS_PROFILE", "default")
    home = Path.home() / ".aws"
    found: dict[str, Any] = {}
    files = {
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials")): profile,
        os.environ.get("AWS_CONFIG_FILE", str(home / "config")): "default"
        if profile == "default"
        else f"profile {profile}",
    }
    for file, section in files.items():
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(file)
        if parser.has_section(section):
            known = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region")
            found |= {key: value for key, value in parser.items(section) if key in known}
    return found
