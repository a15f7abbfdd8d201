"""A recipe that extends a shipped one, as the text of a file that a person reads and changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtbuild.core.format_names import Meaning, canonical, meaning_of, meaning_of_cache
from trtbuild.core.named_modes import Family
from trtbuild.recipe.load import load
from trtbuild.recipe.shipped import SCHEME, shipped_file


@dataclass(frozen=True)
class Converted:
    """One recipe."""

    folder: str
    """Its folder's name, below the one that all go into."""
    text: str
    """Its recipe.yaml."""
    remarks: Sequence[str]
    """What each mode of the configuration became, as the text says it too."""


@dataclass(frozen=True)
class Quantized:
    """The variant that a foreign mode becomes."""

    name: str
    settings: Mapping[str, Any]
    """Its `quantize` and `kv_cache`, as a recipe spells them."""
    remark: str
    """What the mode is here, and what differs."""


def quantized(scheme: str, family: Family) -> Quantized:
    """The variant for a weight scheme of another project.

    Raises RecipeError where the scheme is impossible or unknown, saying why and what is nearest.
    """
    quantize: dict[str, Any] = {"format": canonical(f"{family}:{scheme}")}
    meaning = meaning_of(f"{family}:{scheme}")
    quantize |= {"block_size": meaning.block_size} if meaning.block_size else {}
    quantize |= {"rounding": meaning.rounding} if meaning.rounding != "nearest" else {}
    return Quantized(variant_name(scheme), {"quantize": quantize}, _told(meaning))


def quantized_cache(mode: str, family: Family) -> Quantized:
    """The variant for a mode of the KV cache. Raises RecipeError as `quantized` does."""
    meaning = meaning_of_cache(f"{family}:{mode}")
    assert meaning is not None, "a name with its family is none of ours"
    return Quantized(variant_name(mode), {"kv_cache": meaning.kv_cache}, _told(meaning))


def recipe_text(
    *,
    recipe: str,
    extends: str,
    head: Sequence[str],
    settings: Mapping[str, Any],
    variants: Sequence[Quantized],
    plain: str = "fp16",
) -> str:
    """A recipe over a shipped one, with these variants in place of the shipped ones, beside the reference in the
    precision `plain`. `head` are the lines of the comment in front, `settings` are nested as in the file."""
    shipped = load(shipped_file(SCHEME + extends) or extends).recipe.variants
    lines = [f"# {line}" for line in head]
    lines += [f"recipe: {recipe}", f"extends: {SCHEME}{extends}", *_block(settings)]
    lines += [f"reference: {plain}", "variants:", f"  {plain}: {{precision: {plain}}}"]
    for variant in variants:
        lines += [f"  # {variant.remark}", f"  {variant.name}:"]
        lines += [f"    {key}: {_flow(value)}" for key, value in variant.settings.items()]
    kept = {plain, *(variant.name for variant in variants)}
    return "\n".join([*lines, *(f"  {name}: null" for name in shipped if name not in kept)]) + "\n"


def variant_name(*schemes: str) -> str:
    """The name of a variant for foreign modes, as a recipe may spell it."""
    return "-".join(schemes).lower().replace(":", "-")


def _block(settings: Mapping[str, Any], depth: int = 0) -> list[str]:
    """Nested mappings, each on its own lines as far as something nested is in them."""
    lines: list[str] = []
    for key, value in settings.items():
        if (
            isinstance(value, Mapping)
            and any(isinstance(each, Mapping | list) for each in value.values())
            and depth < 2
        ):
            lines += [f"{'  ' * depth}{key}:", *_block(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}{key}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    """A value on one line of YAML, text in quotes unless it is a plain word."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return value if isinstance(value, str) and value.isidentifier() and value.islower() else json.dumps(value)


def _told(meaning: Meaning) -> str:
    how = "exactly so" if meaning.mapping == "exact" else "approximated"
    return f"{meaning.family}'s {meaning.name}, {how}" + (f": {meaning.reason}" if meaning.reason else "")
