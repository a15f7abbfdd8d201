"""What a quantization mode's name means here: a format exactly, a format with a stated difference, or nothing possible.

Nothing is substituted in silence: an approximation carries its reason, an impossibility its reason and the nearest
format. `named_modes` holds the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.named_modes import MODES, Family, Mapping, Row


@dataclass(frozen=True)
class Meaning:
    """What one named mode is here."""

    name: str
    family: Family
    mapping: Mapping
    reason: str
    """Where approximated, what differs; where impossible, why; where exact, a remark or nothing."""
    canonical: Format | None
    """The format to build; None where impossible."""
    nearest: Format | None = None
    """For an impossible mode, the format nearest to it."""
    block_size: int = 0
    """The `block_size` that belongs to the mode; 0 where it fixes none."""


def meanings(family: str | None = None) -> list[Meaning]:
    """Every named mode, ours first; or those of one family, named in any case. Raises RecipeError for an unknown
    family."""
    if family is None:
        return [_meaning(name, row) for name, rows in MODES.items() for row in rows]
    found = _family(family)
    if found is None:
        raise RecipeError(f"there is no family {family!r} of formats", hint=f"there are: {', '.join(MODES)}")
    return [_meaning(found, row) for row in MODES[found]]


def meaning_of(name: str) -> Meaning:
    """The one meaning of a name, in any case, alone or as `LightX2V:fp8`.

    Our own formats win over a peer's of the same name. Raises RecipeError where nobody has the name, or peers mean
    different things by it.
    """
    found = meanings_of(name)
    if not found:
        raise RecipeError(f"there is no format {name!r}", hint=_near(name))
    if found[0].family == "trtbuild" or len({(one.canonical, one.block_size) for one in found}) == 1:
        return found[0]
    choices = ", ".join(f"{one.family}:{one.name}" for one in found)
    raise RecipeError(f"format {name!r} means different things to different projects", hint=f"write one of {choices}")


def meanings_of(name: str) -> list[Meaning]:
    """Every meaning of a name, ours first, then exact spellings before others; empty where there is none."""
    prefix, colon, rest = name.partition(":")
    family = _family(prefix) if colon else None
    wanted = rest if family else name
    found = [one for one in meanings(family) if one.name.lower() == wanted.lower()]
    return sorted(found, key=lambda one: (one.family != "trtbuild", one.name != wanted))


def canonical(name: str) -> Format:
    """The format that a name stands for. Raises RecipeError where there is none, saying why and what is nearest."""
    meaning = meaning_of(name)
    if meaning.canonical is None:
        hint = f"the nearest is {meaning.nearest}: {FORMATS[meaning.nearest].meaning}" if meaning.nearest else ""
        raise RecipeError(f"format {name} ({meaning.family}) is not possible: {meaning.reason}", hint=hint)
    return meaning.canonical


def spellings() -> Iterator[str]:
    """Every name that a recipe may give as `format`: all but the impossible ones."""
    seen: set[str] = set()
    for one in meanings():
        if one.canonical is not None and one.name not in seen:
            seen.add(one.name)
            yield one.name


def _meaning(family: Family, row: Row) -> Meaning:
    possible = row.mapping != "impossible"
    return Meaning(
        name=row.name,
        family=family,
        mapping=row.mapping,
        reason=row.reason,
        canonical=row.format if possible else None,
        nearest=None if possible else row.format,
        block_size=row.block_size,
    )


def _family(text: str) -> Family | None:
    return next((family for family in MODES if family.lower() == text.lower()), None)


def _near(name: str) -> str:
    known = {one.name.lower(): one.name for one in meanings()}
    if close := difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6):
        return f"did you mean {', '.join(known[word] for word in close)}?"
    return f"formats: {', '.join(FORMATS)}; every alias: trtbuild formats"
