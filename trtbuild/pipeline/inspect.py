"""What a built engine is: its manifest, checked against its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtbuild.core.disk import sha256_of
from trtbuild.core.errors import StoreError
from trtbuild.pipeline.release import read_manifest


def inspect(folder: Path) -> dict[str, Any]:
    """An engine folder's manifest, after every file's digest was checked. Raises StoreError where one differs."""
    manifest = read_manifest(folder)
    check_digests(folder, manifest)
    return manifest


def check_digests(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with the manifest before anybody loads it. Raises StoreError."""
    for name, facts in manifest["files"].items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise StoreError(f"{folder}: the manifest names {name}, which is not there", hint="build it again")
        if sha256_of(file) != facts["sha256"]:
            raise StoreError(
                f"{file}: its bytes are not the ones that were built and validated",
                hint="delete the folder and build again",
            )
