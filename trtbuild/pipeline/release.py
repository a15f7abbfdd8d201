"""Where builds land: `engines/<recipe>/<variant>/`, an engine with its manifest beside it, renamed into place whole."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trtbuild.core import machine, plain_pickle
from trtbuild.core.disk import discard, explained, flush, swap, write_atomically
from trtbuild.core.errors import DataError, StoreError
from trtbuild.core.values import digest_of
from trtbuild.pipeline.store import Action, Listing, Store

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 2


def release(
    store: Store,
    target: Path,
    engine_digest: str,
    actions: Mapping[str, Action],
    facts: Mapping[str, Any],
    companions: Mapping[Path, str],
) -> Path:
    """Copy an engine out of the store with a manifest that says how it came to be, and its companions, each with its
    digest, beside it. Returns the engine's main file.

    Nothing is copied where the folder already holds this very release. Raises StoreError where it cannot be written,
    DataError where a companion is no plain data or has the name of one of the engine's files.
    """
    told = {file.name: digest for file, digest in companions.items()}
    identity = digest_of(
        {
            "engine": engine_digest,
            "actions": {name: dict(act.ingredients) for name, act in actions.items()},
            **({"companions": told} if told else {}),
        }
    )
    engine = store.folder_of(engine_digest)
    own = [*engine.iterdir(), *companions]
    if not _holds(target, identity, own):
        for file in companions:
            _check_companion(file, engine)
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
        try:
            with explained(target):
                beside.mkdir(parents=True)
                for file in sorted(own):
                    shutil.copyfile(file, beside / file.name)
                    flush(beside / file.name)
                manifest = _manifest(identity, engine_digest, beside, actions, {**facts, "companions": sorted(told)})
                write_atomically(beside / MANIFEST_FILE, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
                swap(beside, target)
        finally:
            discard(beside)
    return main_file(target, sorted(told))


def main_file(folder: Path, companions: Sequence[str] = ()) -> Path:
    """The file that a runtime loads: the engine folder's largest that is no companion."""
    own = (file for file in folder.iterdir() if file.suffix != ".json" and file.name not in companions)
    return max(own, key=lambda file: file.stat().st_size)


def _check_companion(file: Path, engine: Path) -> None:
    if file.suffix in plain_pickle.SUFFIXES:
        plain_pickle.check_plain(file)
    if (engine / file.name).exists() or file.name == MANIFEST_FILE:
        raise DataError(f"companion {file.name} has the name of one of the engine's own files", hint="rename it")


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


def _holds(target: Path, identity: str, own: Sequence[Path]) -> bool:
    try:
        manifest = json.loads((target / MANIFEST_FILE).read_text())
        sizes = {file.name: file.stat().st_size for file in own}
        here = {name: (target / name).stat().st_size for name in sizes}
    except (OSError, ValueError):
        return False
    return (manifest.get("format"), manifest.get("identity")) == (MANIFEST_FORMAT, identity) and here == sizes
