"""What packaging, publishing and pulling did, as values: what `--json` prints and every renderer reads."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.values import Result


class ShippedEngine(Result):
    """One engine of a bundle."""

    name: str
    variant: str
    target: str
    """The machine it was built for, in words."""
    verdict: Literal["passed", "failed"]
    size_bytes: int


class PackageReport(Result):
    """A bundle that was made."""

    recipe: str
    version: str
    bundle: str
    """Its folder or file."""
    engines: list[ShippedEngine]
    files: int
    size_bytes: int
    unchanged: bool
    """Whether it was there already, byte for byte."""


class SignReport(Result):
    """A bundle that was signed."""

    bundle: str
    signature: str
    """The file that was written."""
    key_id: str


class VerifyReport(Result):
    """A bundle that is whole, unchanged, and signed as demanded: anything else is an error."""

    bundle: str
    recipe: str
    version: str
    engines: list[ShippedEngine]
    """Those that are there."""
    absent: list[str]
    """Engines of the bundle that are not."""
    files: int
    size_bytes: int
    signed_by: list[str]
    """The files of the keys that signed it, of those that were given."""
    signatures: int
    """How many there are, by whatever key."""


class PublishReport(Result):
    """A bundle that was published."""

    bundle: str
    reference: str
    """With its tag."""
    digest: str
    """Of the index: the bundle's identity at every destination."""
    tags: list[str]
    sent_bytes: int
    there_bytes: int
    """What the destination had already."""
    signatures: int
    elapsed_s: float


class PullReport(Result):
    """A bundle, or one engine of it, that was fetched."""

    reference: str
    digest: str
    bundle: str
    """The folder."""
    recipe: str
    version: str
    engines: list[ShippedEngine]
    """Those that were fetched."""
    main_files: list[str]
    """What a runtime loads, one path for each engine."""
    because: str
    """Why these."""
    signed_by: list[str]
    fetched_bytes: int
    elapsed_s: float


class PromotionReport(Result):
    """An alias that was moved."""

    place: str
    alias: str
    version: str
    """What it leads to now."""
    digest: str
    """Of that bundle's index."""
    replaced: str
    """The version it led to before; empty where there was no such alias."""
    action: Literal["promote", "rollback"]
    verdicts: dict[str, str]
    """By engine."""


class ListedVersion(Result):
    """A version at a destination."""

    tag: str
    digest: str
    created: str
    engines: list[str]
    """By name."""
    failed: list[str]
    """Those of them that failed their gates."""


class ListedAlias(Result):
    """An alias at a destination."""

    alias: str
    version: str
    digest: str
    """Of the bundle's index."""
    since: str
    action: Literal["promote", "rollback"]
    before: str
    """The version that a roll-back leads to; empty where there is none."""


class VersionsReport(Result):
    """What a destination holds."""

    place: str
    versions: list[ListedVersion]
    aliases: list[ListedAlias]
