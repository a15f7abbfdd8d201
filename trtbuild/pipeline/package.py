"""Engines into a bundle: chosen, compared, copied with every digest checked, and renamed into place whole."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtbuild.bundle import contents, verification
from trtbuild.bundle.manifest import BUNDLE_FILE, ENGINES_FOLDER, Bundle, version_of
from trtbuild.core import machine
from trtbuild.core.disk import discard, explained, swap
from trtbuild.core.errors import BackendMissing, DataError, StoreError
from trtbuild.core.shipping import PackageReport, ShippedEngine
from trtbuild.pipeline.release import MANIFEST_FILE, read_manifest

if TYPE_CHECKING:
    from trtbuild.bundle.writing import EngineSource


def package(
    sources: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    version: str | None = None,
    variants: Sequence[str] = (),
    allow_failed: bool = False,
    replace: bool = False,
) -> PackageReport:
    """Make a bundle of engines: folders that `build` wrote, folders of such folders, other bundles to add to.

    `output` is the bundle's folder, or a file `*.tar`; without it `bundles/<recipe>-<version>`. `version` names the
    recipe's version; without it a digest of the engines does. Equal inputs give equal bytes. With `replace`, of two
    engines with one name the one named later is taken.

    Raises DataError where an engine failed its gates (unless `allow_failed`), or engines do not belong together;
    VerificationError where one was changed; StoreError where the bundle cannot be written.
    """
    if machine.package_version("cyclonedx-python-lib") is None:
        raise BackendMissing("packaging needs cyclonedx-python-lib", hint="pip install 'trtbuild[publish]'")
    from trtbuild.bundle import writing  # brings the library
    from trtbuild.pipeline.engine_entry import engine_source, model_digest

    engines = _each_once(
        [engine_source(folder) for source in sources for folder in _folders(Path(source), variants)], replace
    )
    _belong_together(engines, [model_digest(engine.manifest) for engine in engines])
    failed = [engine.entry for engine in engines if engine.entry.verdict.outcome == "failed"]
    if failed and not allow_failed:
        raise DataError(
            f"{failed[0].name} failed its gates: {'; '.join(failed[0].verdict.reasons)}",
            hint="name the variants to ship by --variant, or say --allow-failed",
        )
    recipe = engines[0].manifest["recipe"]
    version = version or version_of(recipe, [engine.entry for engine in engines])
    target = Path(output) if output is not None else Path("bundles") / f"{recipe}-{version}"
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    unchanged = False
    try:
        with explained(target):
            beside.mkdir(parents=True)
            bundle = writing.write(
                beside, recipe, version, model_digest(engines[0].manifest), engines, allow_failed and bool(failed)
            )
            if target.suffix == ".tar":
                writing.archive(beside, bundle.created, target)
            elif not (unchanged := _is_there(target, beside, bundle)):
                swap(beside, target)
    finally:
        discard(beside)
    return PackageReport(
        recipe=recipe,
        version=version,
        bundle=str(target),
        engines=shipped(bundle),
        files=len(bundle.all_files),
        size_bytes=sum(file.bytes for file in bundle.all_files.values()),
        unchanged=unchanged,
    )


def shipped(bundle: Bundle, names: Sequence[str] | None = None) -> list[ShippedEngine]:
    """The engines of a bundle for a report: all, or those of these names."""
    return [
        ShippedEngine(
            name=engine.name,
            variant=engine.variant,
            target=str(engine.target),
            verdict=engine.verdict.outcome,
            size_bytes=engine.size_bytes,
        )
        for engine in bundle.engines
        if names is None or engine.name in names
    ]


def _folders(source: Path, variants: Sequence[str]) -> list[Path]:
    """The engine folders that a source stands for. Raises StoreError where there is none."""
    if (source / BUNDLE_FILE).is_file():
        found = _of_bundle(source)
    elif (source / MANIFEST_FILE).is_file():
        return [source]
    elif source.is_dir():
        found = sorted(folder.parent for folder in source.glob(f"*/{MANIFEST_FILE}"))
    else:
        raise StoreError(f"there is no folder {source}", hint="name a folder that `trtbuild build` wrote")
    chosen = [folder for folder in found if not variants or read_manifest(folder)["variant"] in variants]
    if not chosen:
        raise StoreError(
            f"{source} holds no engine{' of these variants' * bool(variants)}",
            hint=f"there are: {', '.join(folder.name for folder in found)}" if found else "run `trtbuild build` first",
        )
    return chosen


def _of_bundle(source: Path) -> list[Path]:
    read = contents.Folder(source)
    bundle = verification.read_bundle(read)
    present = verification.present_engines(bundle, read)
    if len(present) < len(bundle.engines):
        raise StoreError(
            f"{source} holds {len(present)} of its {len(bundle.engines)} engines",
            hint="pull it with --all before adding to it",
        )
    verification.check_digests(bundle, read)
    return [source / ENGINES_FOLDER / engine.name for engine in bundle.engines]


def _each_once(engines: Sequence[EngineSource], replace: bool) -> list[EngineSource]:
    found: dict[str, EngineSource] = {}
    for engine in engines:
        other = found.get(engine.entry.name)
        if other is not None and not replace and other.entry.files != engine.entry.files:
            raise DataError(
                f"{other.folder} and {engine.folder} are two engines for one target: {engine.entry.name}",
                hint="leave one out, or say --replace to take the one named later",
            )
        found[engine.entry.name] = engine
    return [found[name] for name in sorted(found)]


def _belong_together(engines: Sequence[EngineSource], models: Sequence[str]) -> None:
    first = engines[0]
    for other, model in zip(engines[1:], models[1:], strict=True):
        one, two = (engine.entry.calibration for engine in (first, other))
        if other.manifest["recipe"] != first.manifest["recipe"]:
            differ = f"are of two recipes, {first.manifest['recipe']} and {other.manifest['recipe']}"
        elif model != models[0]:
            differ = "were made from two models, or for other shapes"
        elif one is not None and two is not None and one != two:
            differ = "were calibrated on two sets of samples"
        else:
            continue
        raise DataError(
            f"{first.folder} and {other.folder} {differ}",
            hint="a bundle holds one version of one recipe: build both from it, or package them apart",
        )


def _is_there(target: Path, new: Path, bundle: Bundle) -> bool:
    """Whether the target is this very bundle already, with its signatures. Raises StoreError where it holds more."""
    if not target.exists():
        return False
    if not (target / BUNDLE_FILE).is_file():
        raise StoreError(f"{target} is there and is no bundle", hint="choose another --output")
    old = (target / BUNDLE_FILE).read_bytes()
    if old == (new / BUNDLE_FILE).read_bytes():
        return True
    names = {engine["name"] for engine in json.loads(old)["engines"]}
    if names <= {engine.name for engine in bundle.engines}:
        return False
    raise StoreError(
        f"{target} holds engines that this bundle would lack",
        hint=f"name {target} as a source as well to add to it, or choose another --output",
    )
