"""Named quantization modes as plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trtbuild.core.format_names import Meaning
from trtbuild.core.formats import CALIBRATED_FORMATS, FORMATS

_MARKS = {"exact": "=", "approximated": "~", "impossible": "-"}


def format_lines(found: Sequence[Meaning]) -> Iterator[str]:
    """A line for each name: what it is here, how exactly, and what differs."""
    width = max(len(one.name) for one in found)
    target = max(len(one.canonical or one.kv_cache or "") for one in found)
    family = ""
    for one in found:
        if one.family != family:
            family = one.family
            yield family
        nearest = one.nearest or (f"kv_cache {one.nearest_kv_cache}" if one.nearest_kv_cache else "")
        reason = ("KV cache: " if one.kv_cache else "") + one.reason + (f" (nearest: {nearest})" if nearest else "")
        meant = one.canonical or one.kv_cache or ""
        yield f"  {one.name:<{width}}  {_MARKS[one.mapping]} {meant:<{target}}  {reason}".rstrip()
    yield "= exactly so   ~ approximated   - not possible; `trtbuild formats NAME` says more"


def meaning_lines(found: Sequence[Meaning]) -> Iterator[str]:
    """What one name means to everyone who has it; a recipe's `format` takes the first."""
    for one in found:
        how = "exactly" if one.mapping == "exact" else "approximately"
        if one.kv_cache is not None:
            yield f"{one.name} ({one.family}): {how} a KV cache in {one.kv_cache}: {one.reason}"
            yield f"  in a recipe: kv_cache: {one.kv_cache}"
            continue
        if one.canonical is None:
            yield f"{one.name} ({one.family}): not possible: {one.reason}"
            if one.nearest:
                yield f"  nearest: {one.nearest}: {FORMATS[one.nearest].meaning}"
            if one.nearest_kv_cache:
                yield f"  nearest: kv_cache: {one.nearest_kv_cache}"
            continue
        traits = FORMATS[one.canonical]
        differs = f": {one.reason}" if one.reason and one.family != "trtbuild" else ""
        yield f"{one.name} ({one.family}): {how} {one.canonical}{differs}"
        yield f"  {traits.meaning}"
        needs = "real samples" if one.canonical in CALIBRATED_FORMATS else "no samples"
        yield f"  algorithm {traits.algorithm}; calibration needs {needs}"
        settings = f", block_size: {one.block_size}" if one.block_size else ""
        settings += f", rounding: {one.rounding}" if one.rounding != "nearest" else ""
        yield f"  in a recipe: quantize: {{format: {one.canonical}{settings}}}"
