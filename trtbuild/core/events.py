"""What a build tells whoever listens. The default listener hears everything and says nothing."""

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
