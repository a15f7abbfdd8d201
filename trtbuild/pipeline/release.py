"""Where builds land: `engines/<recipe>/<variant>/`, an engine with its manifest beside it, renamed into place whole."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtbuild.core import machine
from trtbuild.core.errors import StoreError
from trtbuild.core.values import digest_of
from trtbuild.pipeline.store import Action, Listing, Store, discard, explained, flush, write_atomically

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1


def release(
    store: Store, target: Path, engine_digest: str, actions: Mapping[str, Action], facts: Mapping[str, Any]
) -> Path:
    """Copy an engine out of the store with a manifest that says how it came to be. Returns the engine's main file.

    Nothing is copied where the folder already holds this very release. Raises StoreError where it cannot be written.
    """
    identity = digest_of(
        {"engine": engine_digest, "actions": {name: dict(act.ingredients) for name, act in actions.items()}}
    )
    engine = store.folder_of(engine_digest)
    if not _holds(target, identity, engine):
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
        try:
            with explained(target):
                beside.mkdir(parents=True)
                for file in sorted(engine.iterdir()):
                    shutil.copyfile(file, beside / file.name)
                    flush(beside / file.name)
                manifest = _manifest(identity, engine_digest, engine, actions, facts)
                write_atomically(beside / MANIFEST_FILE, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
                _swap(beside, target)
        finally:
            discard(beside)
    return main_file(target)


def main_file(folder: Path) -> Path:
    """The file that a runtime loads: the engine folder's largest."""
    return max((file for file in folder.iterdir() if file.suffix != ".json"), key=lambda file: file.stat().st_size)


def read_manifest(folder: Path) -> dict[str, Any]:
    """An engine folder's manifest. Raises StoreError where there is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder} holds no readable {MANIFEST_FILE}: {error}", hint="name a folder that `trtbuild build` wrote"
        ) from error
    return manifest


def _manifest(
    identity: str, engine_digest: str, engine: Path, actions: Mapping[str, Action], facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "identity": identity,
        "engine_digest": engine_digest,
        "files": {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in Listing.of(engine).files.items()},
        "machine": {name: fact() for name, fact in machine.FACTS.items()},
        "trtbuild": machine.package_version("trtbuild"),
        "steps": {name: action.model_dump(mode="json") for name, action in actions.items()},
        **facts,
    }


def _holds(target: Path, identity: str, engine: Path) -> bool:
    try:
        manifest = json.loads((target / MANIFEST_FILE).read_text())
        sizes = {file.name: file.stat().st_size for file in engine.iterdir()}
        here = {name: (target / name).stat().st_size for name in sizes}
    except (OSError, ValueError):
        return False
    return manifest.get("identity") == identity and here == sizes


def _swap(new: Path, target: Path) -> None:
    """Put a folder in another's place. A reader sees the old one or the new one, for an instant none, never a
    mixture."""
    old = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    if target.exists():
        target.rename(old)
    new.rename(target)
    flush(target.parent)
    discard(old)
