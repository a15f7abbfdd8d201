"""The bill of materials: CycloneDX 1.6, a machine-learning-model with a model card for each engine.

The library does not model `modelCard`; it is added to its JSON, which the strict schema of the specification takes.
[CycloneDX 1.6, JSON reference, components.modelCard]
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from trtbuild.bundle.manifest import EngineEntry
from trtbuild.core.values import canonical_json, digest_of

_NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
"""Of object identifiers, RFC 4122: the serial number is a digest of the content, so that equal bundles have equal
bills."""


def sbom(
    recipe: str,
    version: str,
    created: str,
    engines: list[EngineEntry],
    engine_manifests: Mapping[str, Mapping[str, Any]],
) -> bytes:
    """The bill of a bundle. `engine_manifests` are the engines' own manifests, by the engines' names."""
    root = Component(name=recipe, version=version, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="bundle")
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, digest_of([engine.model_dump(mode="json") for engine in engines])),
        metadata=BomMetaData(timestamp=datetime.fromisoformat(created), component=root),
    )
    parts = {engine.name: _engine(engine, version) for engine in engines}
    for engine in engines:
        used = [
            *(_library(name, found) for name, found in _versions(engine_manifests[engine.name]).items()),
            *_sources(engine_manifests[engine.name]),
            *([_calibration(engine)] if engine.calibration else []),
        ]
        for each in (parts[engine.name], *used):
            bom.components.add(each)
        bom.register_dependency(parts[engine.name], used)
    bom.register_dependency(root, parts.values())
    found = json.loads(JsonV1Dot6(bom).output_as_string())
    for component in found["components"]:
        for engine in engines:
            if component["bom-ref"] == f"engine:{engine.name}":
                component["modelCard"] = _card(engine)
    return (canonical_json(found) + "\n").encode()


def _engine(engine: EngineEntry, version: str) -> Component:
    return Component(
        name=engine.name,
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"engine:{engine.name}",
        hashes=[_hash(engine.files[engine.main].sha256)],
        properties=[
            Property(name="trtbuild:target", value=str(engine.target)),
            Property(name="trtbuild:verdict", value=engine.verdict.outcome),
        ],
    )


def _library(name: str, version: str) -> Component:
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"library:{name}@{version}",
        purl=PackageURL("pypi", None, name, version),
    )


def _versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The libraries that any step depended on, and trtbuild."""
    found = {"trtbuild": str(manifest["trtbuild"])} if manifest.get("trtbuild") else {}
    for step in manifest["steps"].values():
        for key, value in step["ingredients"].items():
            if key.startswith("version."):
                found[key.removeprefix("version.")] = value.partition(" ")[0]
    return found


def _sources(manifest: Mapping[str, Any]) -> list[Component]:
    """Every source file that any step read."""
    found = {
        (key.removeprefix("source.file."), value)
        for step in manifest["steps"].values()
        for key, value in step["ingredients"].items()
        if key.startswith("source.file.")
    }
    return [
        Component(name=name, type=ComponentType.FILE, bom_ref=f"source:{name}@{sha256[:12]}", hashes=[_hash(sha256)])
        for name, sha256 in sorted(found)
    ]


def _calibration(engine: EngineEntry) -> Component:
    assert engine.calibration is not None
    return Component(
        name=f"calibration samples of {engine.calibration.generator}",
        type=ComponentType.DATA,
        bom_ref=f"calibration:{engine.calibration.digest[:12]}",
        hashes=[_hash(engine.calibration.digest)],
    )


def _hash(sha256: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=sha256)


def _card(engine: EngineEntry) -> dict[str, Any]:
    metrics = {**engine.verdict.accuracy, "median_ms": engine.verdict.median_ms, "speedup": engine.verdict.speedup}
    card: dict[str, Any] = {
        "modelParameters": {},
        "quantitativeAnalysis": {
            "performanceMetrics": [{"type": name, "value": repr(value)} for name, value in metrics.items()]
        },
        "properties": [
            {"name": "trtbuild:variant", "value": engine.variant},
            {"name": "trtbuild:precision", "value": engine.precision},
            {"name": "trtbuild:quantization", "value": engine.quantization or "none"},
        ],
    }
    if engine.calibration:
        card["modelParameters"]["datasets"] = [{"ref": f"calibration:{engine.calibration.digest[:12]}"}]
    return card
