"""A bundle as documents that registries keep: an index with a ModelPack manifest for each engine.

    index                          tags point here; descriptors repeat each engine's target and verdict
      bundle manifest              config: bundle.json; layers: bill of materials, statement, plugins
      engine manifest (ModelPack)  config: ModelPack's; layers: the plan, its engine.json, its documents
    referrers of the index         signatures, bill of materials, promotions

[modelpack/model-spec: docs/spec.md, docs/config.md; opencontainers/image-spec v1.1]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trtbuild.bundle.manifest import (
    BUNDLE_FILE,
    PLUGINS_FOLDER,
    PROVENANCE_FILE,
    SBOM_FILE,
    Bundle,
    EngineEntry,
    FileEntry,
)
from trtbuild.core.content import EMPTY_TYPE, Blob, Descriptor, Index, Manifest, Platform
from trtbuild.core.values import canonical_json

BUNDLE_TYPE = "application/vnd.trtbuild.bundle.v1+json"
SIGNATURE_TYPE = "application/vnd.dsse.envelope.v1+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
SBOM_TYPE = "application/vnd.cyclonedx+json"
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_MODEL = "application/vnd.cncf.model."
_FILE_PATH = "org.cncf.model.filepath"
_OURS = "ai.trtbuild."
_OCI = "org.opencontainers.image."


@dataclass(frozen=True)
class Image:
    """What is put into a registry, in this order."""

    blobs: list[Blob]
    manifests: list[Blob]
    index: Blob


def image(bundle: Bundle, folder: Path) -> Image:
    """The documents and blobs of a bundle's folder."""
    blobs = list(_blobs(bundle, folder))
    configs, manifests = [], []
    for engine in bundle.engines:
        config = _model_config(bundle, engine)
        configs.append(config)
        manifests.append(_engine_manifest(bundle, engine, config))
    own = Blob.of_document(
        Manifest(
            artifact_type=BUNDLE_TYPE,
            config=blobs[0].descriptor,
            layers=[blob.descriptor for blob in blobs[1:] if not blob.name.startswith("engines/")],
        ),
        "bundle manifest",
    )
    index = Index(
        artifact_type=BUNDLE_TYPE,
        manifests=[
            own.descriptor.model_copy(update={"artifact_type": BUNDLE_TYPE}),
            *(_entry(engine, blob) for engine, blob in zip(bundle.engines, manifests, strict=True)),
        ],
        annotations={
            f"{_OCI}title": bundle.recipe,
            f"{_OCI}version": bundle.version,
            f"{_OCI}created": bundle.created,
        },
    )
    return Image([*blobs, *configs], [own, *manifests], Blob.of_document(index, "index"))


def referrer(subject: Descriptor, content: Blob, artifact_type: str) -> tuple[list[Blob], Manifest]:
    """A document that says: this content speaks of that index. With the blobs it consists of."""
    empty = Blob.of(b"{}", EMPTY_TYPE, "empty config")
    manifest = Manifest(
        artifact_type=artifact_type,
        config=empty.descriptor,
        layers=[content.descriptor],
        subject=subject.plain,
    )
    return [empty, content], manifest


def file_descriptor(file: FileEntry) -> Descriptor:
    """How any destination finds a bundle's file."""
    return Descriptor(media_type="application/octet-stream", digest=f"sha256:{file.sha256}", size=file.bytes)


def layer(manifest: Manifest, path: str) -> Descriptor | None:
    """The layer that holds a file of the bundle."""
    return next((each for each in manifest.layers if (each.annotations or {}).get(_FILE_PATH) == path), None)


def _blobs(bundle: Bundle, folder: Path) -> Iterator[Blob]:
    """Every file of the bundle, bundle.json first, signatures left out: those are referrers."""
    yield Blob.of((folder / BUNDLE_FILE).read_bytes(), BUNDLE_TYPE, BUNDLE_FILE)
    statement = Blob.of((folder / PROVENANCE_FILE).read_bytes(), STATEMENT_TYPE, PROVENANCE_FILE)
    yield Blob(
        statement.descriptor.model_copy(update={"annotations": {_FILE_PATH: PROVENANCE_FILE}}),
        statement.source,
        PROVENANCE_FILE,
    )
    for path, file in bundle.all_files.items():
        yield Blob(_layer(path, file, _media_type(bundle, path)), folder / path, path)


def _layer(path: str, file: FileEntry, media_type: str) -> Descriptor:
    return file_descriptor(file).model_copy(update={"media_type": media_type, "annotations": {_FILE_PATH: path}})


def _media_type(bundle: Bundle, path: str) -> str:
    if path == SBOM_FILE:
        return SBOM_TYPE
    if path.startswith(f"{PLUGINS_FOLDER}/"):
        return f"{_MODEL}code.v1.raw"
    if any(path == engine.main for engine in bundle.engines) or not path.endswith(".json"):
        return f"{_MODEL}weight.v1.raw"
    return f"{_MODEL}weight.config.v1.raw" if path.endswith("/engine.json") else f"{_MODEL}doc.v1.raw"


def _model_config(bundle: Bundle, engine: EngineEntry) -> Blob:
    described = {
        "descriptor": {
            "name": bundle.recipe,
            "title": engine.name,
            "version": bundle.version,
            "createdAt": bundle.created,
        },
        "config": {
            "format": engine.target.backend,
            "precision": engine.precision,
            **({"quantization": engine.quantization} if engine.quantization else {}),
        },
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in engine.files.values()]},
    }
    return Blob.of(canonical_json(described).encode(), f"{_MODEL}config.v1+json", f"{engine.name} config")


def _engine_manifest(bundle: Bundle, engine: EngineEntry, config: Blob) -> Blob:
    layers = [_layer(path, file, _media_type(bundle, path)) for path, file in engine.files.items()]
    manifest = Manifest(
        artifact_type=MODEL_TYPE, config=config.descriptor, layers=layers, annotations=_annotations(engine)
    )
    return Blob.of_document(manifest, f"{engine.name} manifest")


def _entry(engine: EngineEntry, manifest: Blob) -> Descriptor:
    system, _, architecture = engine.target.platform.partition("/")
    return manifest.descriptor.model_copy(
        update={
            "artifact_type": MODEL_TYPE,
            "annotations": _annotations(engine),
            "platform": Platform(os=system, architecture=architecture),
        }
    )


def _annotations(engine: EngineEntry) -> dict[str, str]:
    """What a client chooses by, without fetching anything more."""
    target = engine.target
    found = {
        "engine": engine.name,
        "variant": engine.variant,
        "precision": engine.precision,
        "quantization": engine.quantization or "",
        "backend": target.backend,
        target.backend: target.version,
        "sm": f"{target.sm[0]}.{target.sm[1]}" if target.sm else "",
        "gpu": target.gpu,
        "cuda": target.cuda,
        "hardware-compatibility": target.hardware_compatibility if target.sm else "",
        "version-compatible": "true" if target.version_compatible else "",
        "verdict": engine.verdict.outcome,
    }
    return {f"{_OURS}{name}": value for name, value in found.items() if value}
