"""How places are spelled: `oci://host/team/minilm:1.4.0`, `s3://bucket/prefix@sha256:...`, `releases/minilm:prod`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from trtbuild.core.errors import DestinationError

SCHEMES = {
    "dir": "a folder (a path alone means the same)",
    "s3": "Amazon S3 and what speaks its protocol",
    "gs": "Google Cloud Storage",
    "az": "Azure Blob Storage: az://container/prefix",
    "oci": "a container registry",
    "oci+http": "a container registry without TLS",
    "hf": "the Hugging Face Hub: hf://owner/repository",
}
"""Every scheme, and what it leads to."""

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""[distribution-spec, "Pulling manifests"]"""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A place, and there a tag or a digest."""

    scheme: str
    location: str
    """What stands behind the scheme: `host/team/minilm`, `bucket/prefix`, a path."""
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read what a person wrote. Raises DestinationError where it cannot be meant."""
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "dir", text
        scheme = {"file": "dir"}.get(scheme, scheme)
        if scheme not in SCHEMES:
            close = difflib.get_close_matches(scheme, SCHEMES, n=1)
            raise DestinationError(
                f"there is no scheme {scheme}://",
                hint=f"did you mean {close[0]}://?" if close else f"known: {', '.join(SCHEMES)}; or a path",
            )
        if scheme != "dir" and "@" in rest.partition("/")[0]:
            raise DestinationError(
                "a reference holds no credentials",
                hint="leave user and password out: they are read from the environment and the usual files",
            )
        rest, at, digest = rest.partition("@sha256:")
        parent, slash, last = rest.rpartition("/")
        last, colon, tag = last.partition(":")
        if not slash and scheme.startswith("oci"):
            raise DestinationError(f"{text} names no repository", hint="write oci://host/repository")
        if not last and not parent:
            raise DestinationError(f"{text!r} names no place", hint="write for example oci://host/repository:tag")
        found = cls(scheme, f"{parent}{slash}{last}", tag if colon else None, f"sha256:{digest}" if at else None)
        if found.tag is not None and not _TAG.fullmatch(found.tag):
            raise DestinationError(
                f"{found.tag!r} cannot be a tag", hint="letters, digits, '.', '_' and '-', 128 of them at most"
            )
        if found.digest is not None and not _DIGEST.fullmatch(found.digest):
            raise DestinationError(f"{found.digest!r} is no digest", hint="write @sha256: and 64 hexadecimal digits")
        return found

    def tagged(self, tag: str) -> Reference:
        """The same place with a tag."""
        if not _TAG.fullmatch(tag):
            raise DestinationError(
                f"{tag!r} cannot be a tag", hint="letters, digits, '.', '_' and '-', 128 of them at most"
            )
        return replace(self, tag=tag, digest=None)

    def at(self, digest: str) -> Reference:
        """The same place with a digest."""
        return replace(self, tag=None, digest=digest)

    @property
    def place(self) -> str:
        """Without tag and digest."""
        return self.location if self.scheme == "dir" else f"{self.scheme}://{self.location}"

    def __str__(self) -> str:
        return self.place + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
