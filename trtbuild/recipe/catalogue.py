"""What recipes there are: what each builds, which GPUs its formats need, what was measured of it and what proven."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.requirements import ADA, AMPERE, BLACKWELL, HOPPER, LEAST_SM, LEAST_TENSORRT, TURING
from trtbuild.core.values import Result
from trtbuild.recipe.expand import Variant, variants
from trtbuild.recipe.load import load
from trtbuild.recipe.schema import AUTO
from trtbuild.recipe.shipped import RECIPE_FILE

PROVEN = "## What was proven on what"
"""The heading in a recipe's README, or in that of the folder around it, under which it says so."""
ARCHITECTURES = {TURING: "Turing", AMPERE: "Ampere", ADA: "Ada", HOPPER: "Hopper", BLACKWELL: "Blackwell"}


class Measured(Result):
    """One variant of a recipe on one device."""

    variant: str
    device: str
    speedup: float | None
    """Against the recipe's reference; None where only accuracy was measured."""
    size_bytes: int
    metric: str
    """The recipe's first gate that was measured."""
    value: float | None
    source: str
    """The file that holds it and more, relative to the folder around `benchmarks`."""


class Listed(Result):
    """One recipe."""

    name: str
    """By which it is built: `wan/dit`."""
    path: str
    description: str = ""
    variants: list[str] = []
    formats: dict[str, str] = {}
    """The formats of its variants, and what each needs of TensorRT; ONNX Runtime runs each on a CPU."""
    kv_cache: list[str] = []
    """The modes of a decoder's cache."""
    measured: list[Measured] = []
    proven: str = ""
    """What was proven on what, the first sentence of what its README says."""
    problem: str = ""
    """Why it cannot be built; empty where it can."""


def catalogue(folder: Path, benchmarks: Path | None = None) -> list[Listed]:
    """Every recipe below a folder, by name, with the measurements of build reports below `benchmarks`."""
    reports = dict(_reports(benchmarks)) if benchmarks is not None and benchmarks.is_dir() else {}
    return [_listed(file, folder, reports) for file in sorted(folder.rglob(RECIPE_FILE))]


def _listed(file: Path, folder: Path, reports: dict[str, dict[str, Any]]) -> Listed:
    name, path = file.parent.relative_to(folder).as_posix(), str(file.parent)
    try:
        recipe = load(file, only=None).recipe
        found = variants(recipe)
    except RecipeError as error:
        return Listed(name=name, path=path, problem=error.message.splitlines()[0])
    return Listed(
        name=name,
        path=path,
        description=recipe.description,
        variants=list(found),
        formats={form: needs(form) for form in _formats(list(found.values()))},
        kv_cache=sorted({each.kv_cache.mode for each in found.values()} - {"float"}),
        measured=[
            measured
            for source, report in reports.items()
            if report["recipe"] == recipe.recipe
            for measured in _measured(report, list(recipe.gates.accuracy), source)
        ],
        proven=_proven(file.parent, folder),
    )


def needs(form: Format) -> str:
    """The first GPU architecture and TensorRT that run a format, in words."""
    return f"{ARCHITECTURES[LEAST_SM[form]]}, TensorRT {'.'.join(map(str, LEAST_TENSORRT[form]))}"


def _formats(found: list[Variant]) -> list[Format]:
    asked = {form for each in found if each.quantize is not None for form in each.quantize.formats if form != AUTO}
    return [form for form in FORMATS if form in asked]


def _reports(benchmarks: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The build reports below a folder, as `trtbuild build --json` writes them, by their path."""
    for file in sorted(benchmarks.rglob("*.json")):
        try:
            report = json.loads(file.read_text())
        except (OSError, ValueError):
            continue  # something else's
        if isinstance(report, dict) and {"recipe", "variants", "device"} <= report.keys():
            yield file.relative_to(benchmarks.parent).as_posix(), report


def _measured(report: dict[str, Any], gates: list[str], source: str) -> Iterator[Measured]:
    for each in report["variants"]:
        accuracy = each.get("accuracy", {})
        metric = next((name for name in gates if name in accuracy), "")
        yield Measured(
            variant=each["name"],
            device=report["device"],
            speedup=each.get("speedup_vs_reference"),
            size_bytes=each["size_bytes"],
            metric=metric,
            value=accuracy.get(metric),
            source=source,
        )


def _proven(recipe: Path, folder: Path) -> str:
    """The first sentence below the heading, in the README nearest to the recipe."""
    for place in (recipe, *recipe.parents):
        readme = place / "README.md"
        if readme.is_file() and PROVEN in (text := readme.read_text()):
            paragraph = " ".join(text.split(PROVEN, 1)[1].strip().split("\n\n")[0].split())
            return re.split(r"(?<=\.)\s+(?=[A-Z])", paragraph)[0]
        if place == folder:
            break
    return ""
