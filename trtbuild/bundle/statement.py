"""What is signed about a bundle: an in-toto statement on every file, with its SLSA provenance.

[in-toto attestation framework, spec/v1/statement.md; SLSA v1.0, provenance]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trtbuild.bundle.manifest import BUNDLE_FILE, Bundle
from trtbuild.core.errors import VerificationError
from trtbuild.core.values import canonical_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:trtbuild:recipe:v1"
MAX_STATEMENT_BYTES = 3 << 20


def statement(bundle: Bundle, bundle_sha256: str, engine_manifests: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The statement on a bundle: each file by digest; each engine's recipe, settings, sources and machine.

    `engine_manifests` are the engines' own manifests, by the engines' names.
    """
    files = {BUNDLE_FILE: bundle_sha256} | {path: file.sha256 for path, file in bundle.all_files.items()}
    ingredients = {name: _ingredients(manifest) for name, manifest in engine_manifests.items()}
    return (
        canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": path, "digest": {"sha256": files[path]}} for path in sorted(files)],
                "predicateType": PREDICATE_TYPE,
                "predicate": {
                    "buildDefinition": {
                        "buildType": BUILD_TYPE,
                        "externalParameters": {
                            "recipe": bundle.recipe,
                            "version": bundle.version,
                            "variants": sorted({engine.variant for engine in bundle.engines}),
                        },
                        "internalParameters": {
                            engine.name: {
                                "target": engine.target.model_dump(mode="json"),
                                "steps": _settings(ingredients[engine.name]),
                            }
                            for engine in bundle.engines
                        },
                        "resolvedDependencies": _sources(ingredients.values()),
                    },
                    "runDetails": {
                        "builder": {
                            "id": "urn:trtbuild:local",
                            "version": {"trtbuild": bundle.trtbuild},
                        },
                        "metadata": {"finishedOn": bundle.created},
                    },
                },
            }
        )
        + "\n"
    ).encode()


def subjects(content: bytes, where: str) -> dict[str, str]:
    """The files that a statement speaks of: sha256 (hex) by path. Raises VerificationError where it is none of ours."""
    try:
        found = json.loads(content)
        if found["_type"] != STATEMENT_TYPE or found["predicateType"] != PREDICATE_TYPE:
            raise VerificationError(f"{where} is another kind of statement than trtbuild makes")
        return {str(each["name"]): str(each["digest"]["sha256"]) for each in found["subject"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError(f"{where} is no in-toto statement", hint="package the bundle again") from error


def _ingredients(manifest: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {name: dict(step["ingredients"]) for name, step in manifest["steps"].items()}


def _settings(steps: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Of each step, what is not a source: those are dependencies."""
    return {
        name: {key: value for key, value in found.items() if not key.startswith("source.file.")}
        for name, found in steps.items()
    }


def _sources(engines: Sequence[Any] | Any) -> list[dict[str, Any]]:
    """Every source file that any step read, once."""
    found = {
        (key.removeprefix("source.file."), value)
        for steps in engines
        for ingredients in steps.values()
        for key, value in ingredients.items()
        if key.startswith("source.file.")
    }
    return [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(found)]
