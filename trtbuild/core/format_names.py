"""What a quantization mode's name means here: a format of weights and activations or a mode of the KV cache, exactly or
with a stated difference, or nothing possible.

Nothing is substituted in silence: an approximation carries its reason, an impossibility its reason and the nearest
format. `named_modes` holds the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.kv_cache import CacheMode
from trtbuild.core.named_modes import MODES, Family, Mapping, Rounding, Row


@dataclass(frozen=True)
class Meaning:
    """What one named mode is here."""

    name: str
    family: Family
    mapping: Mapping
    reason: str
    """Where approximated, what differs; where impossible, why; where exact, a remark or nothing."""
    canonical: Format | None
    """The format to build; None where impossible, and for a mode of the KV cache."""
    nearest: Format | None = None
    """For an impossible mode, the format nearest to it."""
    block_size: int = 0
    """The `block_size` that belongs to the mode; 0 where it fixes none."""
    rounding: Rounding = "nearest"
    """The `rounding` that belongs to the mode."""
    kv_cache: CacheMode | None = None
    """What `kv_cache` becomes, for a mode of the KV cache that is possible."""
    nearest_kv_cache: CacheMode | None = None
    """For an impossible one, the mode nearest to it."""


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
    if found[0].family == "trtbuild" or len({(one.canonical, one.block_size, one.kv_cache) for one in found}) == 1:
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
    if meaning.kv_cache:
        raise RecipeError(
            f"{name} ({meaning.family}) is no format of weights: it says how the KV cache is kept",
            hint=f"write kv_cache: {name} beside quantize",
        )
    if meaning.canonical is None:
        hint = f"the nearest is {meaning.nearest}: {FORMATS[meaning.nearest].meaning}" if meaning.nearest else ""
        raise RecipeError(f"format {name} ({meaning.family}) is not possible: {meaning.reason}", hint=hint)
    return meaning.canonical


def meaning_of_cache(name: str) -> Meaning | None:
    """What a name means as the mode of a KV cache; None for our own modes, which need no explanation.

    Raises RecipeError where there is no such mode, or it is impossible, saying why and what is nearest.
    """
    if name in get_args(CacheMode):
        return None
    found = [one for one in meanings_of(name) if one.kv_cache or one.nearest_kv_cache]
    if not found:
        known = {word.lower(): word for word in cache_spellings()}
        close = difflib.get_close_matches(name.lower(), known, n=2)
        hint = f"did you mean {' or '.join(known[word] for word in close)}?" if close else f"modes: {', '.join(known)}"
        raise RecipeError(f"there is no mode {name!r} of a KV cache", hint=hint)
    if found[0].kv_cache is None:
        raise RecipeError(
            f"kv_cache {name} ({found[0].family}) is not possible: {found[0].reason}",
            hint=f"the nearest is {found[0].nearest_kv_cache}",
        )
    return found[0]


def cache_spellings() -> Iterator[str]:
    """Every name that a recipe may give as the mode of `kv_cache`, ours first."""
    yield from get_args(CacheMode)
    yield from dict.fromkeys(one.name for one in meanings() if one.kv_cache)


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
        rounding=row.rounding,
        kv_cache=row.cache if possible else None,
        nearest_kv_cache=None if possible else row.cache,
    )


def _family(text: str) -> Family | None:
    return next((family for family in MODES if family.lower() == text.lower()), None)


def _near(name: str) -> str:
    prefix, _, rest = name.partition(":")
    family = _family(prefix)
    known = {one.name.lower(): one.name for one in meanings(family)}
    if close := difflib.get_close_matches((rest if family else name).lower(), known, n=3, cutoff=0.6):
        return f"did you mean {', '.join(known[word] for word in close)}?"
    return f"formats: {', '.join(FORMATS)}; every alias: trtbuild formats"
