"""An engine's folder, as `build` wrote it, in the words of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trtbuild.bundle.manifest import (
    BUNDLE_FILE,
    ENGINES_FOLDER,
    PLUGINS_FOLDER,
    CalibrationEntry,
    EngineEntry,
    FileEntry,
    PluginEntry,
    VerdictEntry,
)
from trtbuild.bundle.shared_library import needed_by
from trtbuild.bundle.writing import EngineSource
from trtbuild.core.artifacts import Engine
from trtbuild.core.disk import sha256_of
from trtbuild.core.errors import DataError, StoreError
from trtbuild.core.results import Coverage
from trtbuild.core.target import Target
from trtbuild.core.values import digest_of
from trtbuild.pipeline.release import MANIFEST_FILE, MANIFEST_FORMAT, main_file, read_manifest

_MODEL_STAGES = ("export", "adopt")
"""The stages that take the model in: what they read is the model."""


def engine_source(folder: Path) -> EngineSource:
    """An engine's folder, described. Raises StoreError where it is none, or of another version of trtbuild."""
    manifest = read_manifest(folder)
    if manifest.get("format") != MANIFEST_FORMAT:
        raise StoreError(
            f"{folder} was written by another trtbuild", hint="build it again: what is unchanged is reused, not run"
        )
    try:
        facts = json.loads((folder / Engine.file).read_text())
        target = Target.of(facts, manifest["machine"])
        plugins, libraries = _plugins(folder, facts.get("plugins") or [])
        return EngineSource(folder, manifest, _entry(folder, manifest, target, plugins), libraries)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise StoreError(
            f"{folder} is no engine that can be packaged: {str(error).splitlines()[0]}", hint="build it again"
        ) from error


def model_digest(manifest: Mapping[str, Any]) -> str:
    """The identity of the model behind an engine: its source files and the shapes it was exported for, whatever
    machine, precision or target followed."""
    steps = [step["ingredients"] for step in manifest["steps"].values()]
    taken_in = [found for found in steps if found.get("stage", "").partition(" ")[0] in _MODEL_STAGES]
    kept = [
        {key: value for key, value in found.items() if key.startswith(("source.", "shapes."))} for found in taken_in
    ]
    return digest_of(kept)


def _entry(folder: Path, manifest: Mapping[str, Any], target: Target, plugins: list[PluginEntry]) -> EngineEntry:
    name = f"{manifest['variant']}.{target.label}"
    listed = {
        file: FileEntry(bytes=facts["bytes"], sha256=facts["sha256"]) for file, facts in manifest["files"].items()
    }
    own = folder / MANIFEST_FILE
    listed[MANIFEST_FILE] = FileEntry(bytes=own.stat().st_size, sha256=sha256_of(own))
    return EngineEntry(
        name=name,
        variant=manifest["variant"],
        precision=manifest["precision"],
        quantization=manifest["quantization"],
        target=target,
        main=f"{ENGINES_FOLDER}/{name}/{main_file(folder, manifest.get('companions', [])).name}",
        engine_digest=manifest["engine_digest"],
        verdict=_verdict(manifest),
        calibration=_calibration(manifest["calibration"]),
        plugins=plugins,
        files={f"{ENGINES_FOLDER}/{name}/{file}": listed[file] for file in sorted(listed)},
    )


def _verdict(manifest: Mapping[str, Any]) -> VerdictEntry:
    verdict, measurement = manifest["verdict"], manifest["measurement"]
    coverage = Coverage.model_validate(manifest["coverage"])
    return VerdictEntry(
        outcome=verdict["outcome"],
        reasons=verdict["reasons"],
        remarks=verdict["remarks"],
        accuracy=verdict["accuracy"],
        speedup=verdict["speedup"],
        size_ratio=verdict["size_ratio"],
        coverage_asked=coverage.asked,
        coverage_ran=coverage.ran,
        median_ms=measurement["engine"]["median_ms"],
        device=measurement["device"],
    )


def _calibration(record: Mapping[str, Any] | None) -> CalibrationEntry | None:
    if record is None:
        return None
    return CalibrationEntry(generator=record["generator"], samples=record["rows"], digest=record["digest"])


def _plugins(folder: Path, named: list[str]) -> tuple[list[PluginEntry], dict[str, Path]]:
    """The libraries that an engine names, as a bundle lists them, and where each is now.

    An engine that lies in a bundle has them there, and is not believed where it names any other place.
    """
    bundle = folder.parent.parent
    in_bundle = folder.parent.name == ENGINES_FOLDER and (bundle / BUNDLE_FILE).is_file()
    entries, files = [], {}
    for name in named:
        found = sorted((bundle / PLUGINS_FOLDER).glob(f"*/{Path(name).name}")) if in_bundle else [folder / name]
        if not found or not found[0].is_file():
            raise DataError(
                f"{folder} needs the plugin {name}, which is not there", hint="put it back, or build the engine again"
            )
        path = f"{PLUGINS_FOLDER}/{sha256_of(found[0])[:12]}/{found[0].name}"
        entries.append(PluginEntry(path=path, needs=needed_by(found[0])))
        files[path] = found[0]
    return entries, files
