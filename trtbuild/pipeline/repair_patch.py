"""Repairs in the recipe's own words: overrides for the next build, and a patch for a person to read and commit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trtbuild.core.disk import write_atomically
from trtbuild.core.report import PatchReport
from trtbuild.recipe.edit import Addition, NotEditable, as_lines, edited, unified_diff
from trtbuild.recipe.expand import Variant
from trtbuild.recipe.expand import variants as expanded
from trtbuild.recipe.load import LoadedRecipe

PATCH_FILE = "repair.patch"


class Decision(NamedTuple):
    """What was decided for one variant."""

    variant: Variant
    keep_fp32: Mapping[str, str]
    """Patterns to pin, each with the reason."""
    high: Mapping[str, str]
    """Modules to leave in high precision, each with the reason."""


def additions(loaded: LoadedRecipe, decisions: Iterable[Decision]) -> list[Addition]:
    """What the recipe must say in addition. Variants that a matrix makes of one entry share what is decided for any."""
    found: dict[tuple[tuple[str, ...], str, str], Addition] = {}

    def add(path: tuple[str, ...], key: str, value: str, comment: str) -> None:
        found.setdefault((path, key, value), Addition(path, key, value, comment))

    for variant, keep_fp32, high in decisions:
        at = ("variants", variant.spelled)
        if keep_fp32 and loaded.recipe.variants[variant.spelled].keep_fp32 is None:
            for pattern in loaded.recipe.keep_fp32:
                add((*at, "keep_fp32"), "", pattern, "as for all variants")
        for pattern, reason in keep_fp32.items():
            add((*at, "keep_fp32"), "", pattern, reason)
        for module, reason in high.items():
            add((*at, "quantize", "overrides"), module, "high", reason)
    return list(found.values())


def as_sets(loaded: LoadedRecipe, added: Sequence[Addition]) -> list[str]:
    """The additions as `path=value` overrides: each mapping or list with what the recipe has there already."""
    found: dict[tuple[str, ...], Any] = {}
    for addition in added:
        whole = found.setdefault(addition.path, _at(loaded.document.value, addition))
        if addition.key:
            whole[addition.key] = addition.value
        else:
            whole.append(addition.value)
    return [f"{'.'.join(path)}={json.dumps(whole)}" for path, whole in found.items()]


def _at(value: Any, addition: Addition) -> Any:
    for word in addition.path:
        value = (value or {}).get(word)
    if addition.key:
        return dict(value or {})
    return list(value or [])


def patched(loaded: LoadedRecipe, added: Sequence[Addition], output: Path, *, write: bool) -> PatchReport:
    """Write the additions as a unified diff of the recipe, and into the recipe itself where `write` asks for it."""
    text = loaded.file.read_bytes().decode("utf-8")
    lines, note = as_lines(added), _note(loaded, added)
    try:
        changed = edited(text, added)
    except NotEditable as refused:
        note = " ".join(filter(None, [f"{refused}: write these keys into {loaded.file} by hand.", note]))
        return PatchReport(file="", command="", written=False, note=note, lines=lines)
    file = output / loaded.recipe.recipe / PATCH_FILE
    write_atomically(file, unified_diff(text, changed, loaded.file.name))
    if write:
        loaded.file.write_bytes(changed.encode("utf-8"))
    command = f"git -C {shlex.quote(str(loaded.folder))} apply {shlex.quote(str(file.resolve()))}"
    return PatchReport(file=str(file), command=command, written=write, note=note, lines=lines)


def _note(loaded: LoadedRecipe, added: Sequence[Addition]) -> str:
    """Whom else the keys touch."""
    spelled = list(dict.fromkeys(addition.path[1] for addition in added))
    known = expanded(loaded.recipe)
    notes = []
    for name in spelled:
        family = [variant.name for variant in known.values() if variant.spelled == name]
        if len(family) > 1:
            notes.append(f"The matrix makes {', '.join(family)} of variant {name}: they share the keys.")
        place = loaded.document.places.get(("variants", name))
        if place is not None and Path(place.source).resolve() != loaded.file:
            notes.append(f"Variant {name} is written in {place.source}; the keys go into this recipe, over it.")
    return " ".join(notes)
