"""What a build, or a transfer, tells whoever listens. The default listeners hear everything and say nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepName:
    """A step, for those who only want to talk about it."""

    name: str
    sentence: str
    """What its stage does, in words."""


class Listener:
    """Override what you want to hear. Calls come from the build's threads, one at a time."""

    def planned(self, steps: list[StepName]) -> None:
        """The build knows its steps."""

    def waiting(self, step: StepName) -> None:
        """Another build is running this very step; this one waits for its result."""

    def started(self, step: StepName, reason: str) -> None:
        """A step runs, for this reason."""

    def reused(self, step: StepName, reason: str) -> None:
        """A step's work was already done."""

    def finished(self, step: StepName, elapsed_s: float) -> None:
        """A step ended well."""

    def failed(self, step: StepName, message: str) -> None:
        """A step broke."""


class TransferListener:
    """Override what you want to hear while content is sent or fetched."""

    def announced(self, names: dict[str, int]) -> None:
        """What will be moved, with the size of each in bytes."""

    def reached(self, name: str, position: int) -> None:
        """So many bytes of it have arrived; fewer than before where it had to begin again."""

    def already_there(self, name: str) -> None:
        """Nothing of it needs to be moved."""

    def interrupted(self, name: str, reason: str) -> None:
        """A connection was cut or a server was busy; it is tried again."""
