"""What every place can do: keep blobs by digest, and name documents by tags that move only by compare-and-swap."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trtbuild.core.content import Blob, Descriptor
from trtbuild.core.errors import DestinationError

Reached = Callable[[int], None]
"""Told the position in a blob, in bytes, that has arrived."""


class Interrupted(DestinationError):
    """A connection was cut, or a server is busy: worth another try."""

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 0.0, answered: bool = False) -> None:
        super().__init__(message, hint=hint or "check the network and the address; what has arrived is kept")
        self.retry_after_s = retry_after_s
        self.answered = answered
        """Whether the place said so itself, rather than nothing."""


class NotThere(DestinationError):
    """The place has no such blob or document."""


class TagMoved(DestinationError):
    """A tag is not where it was when it was read: somebody else moved it."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(
            f"the tag {name} of {place} was moved by somebody else meanwhile",
            hint="look with `trtbuild versions`, and run the command again if it is still wanted",
        )


@dataclass(frozen=True)
class Tag:
    """What a tag points to, and which of its states that is."""

    descriptor: Descriptor
    state: str
    """Opaque; `move_tag` compares it."""


class Destination(ABC):
    """One repository of bundles. A DestinationError says in words what it refused; only `Interrupted` is retried."""

    named: str
    """What to call it in messages: never with credentials."""

    @abstractmethod
    def has(self, descriptor: Descriptor) -> bool:
        """Whether a blob or document is there, by digest."""

    @abstractmethod
    def put(self, blob: Blob, reached: Reached) -> None:
        """Keep a blob or document; done where it is there already. It appears whole or not at all.

        May be called again after `Interrupted`, and then goes on from where it was if the place can.
        """

    @abstractmethod
    def read(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob or document from a position on, unchecked. Raises NotThere."""

    @abstractmethod
    def tag(self, name: str) -> Tag | None:
        """What a tag points to; None where there is no such tag."""

    @abstractmethod
    def move_tag(self, name: str, to: Descriptor, seen: Tag | None) -> None:
        """Let a tag point to a document, if it still is as it was seen (None: if it does not exist).

        Raises TagMoved where it is not.
        """

    @abstractmethod
    def tags(self) -> list[str]:
        """The names of all tags, referrers' tags included."""

    def listed_referrers(self, subject: Descriptor) -> list[Descriptor] | None:
        """What the place itself knows to speak of a document; None where it does not keep account."""
        return None

    def keeps_account_of(self, referrer: Blob) -> bool:
        """Whether the place noted by itself what the referrer speaks of, when it was put."""
        return False

    def will_write(self, mount_from: Sequence[str] = ()) -> None:
        """Prepare for `put` and `move_tag`. Where the place can, blobs of these other repositories of it are mounted
        instead of sent. Raises DestinationError where it cannot."""
        if mount_from:
            raise DestinationError(f"{self.named} mounts nothing", hint="only oci:// takes --mount-from")

    def close(self) -> None:  # noqa: B027  # most places hold nothing open
        """Let connections go."""
