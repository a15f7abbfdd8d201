"""A recipe's variants with everything resolved: matrix multiplied, recipe-wide settings merged in."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ValidationError

from trtbuild.core.errors import Problem, RecipeError
from trtbuild.core.format_names import Meaning, meaning_of, meaning_of_cache
from trtbuild.core.values import Value, canonical_json
from trtbuild.recipe.decoder_schema import CacheSettings
from trtbuild.recipe.merge import merged
from trtbuild.recipe.problems import Finding
from trtbuild.recipe.schema import AUTO, EngineOptions, QuantizeOptions, Recipe
from trtbuild.stages.judge import Gates
from trtbuild.stages.measure import MeasureOptions

MOST_VARIANTS = 200
"""A matrix that asks for more engines than this is taken for a mistake."""


class Variant(Value):
    """One engine to build, with nothing left to look up."""

    name: str
    """Its name, with the matrix's values."""
    spelled: str
    """The name under which the recipe spells it."""
    description: str = ""
    """What it is for."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """The precision of what is not quantized."""
    keep_fp32: list[str] = []
    """Nodes that stay in FP32 where that precision has 16 bits."""
    quantize: QuantizeOptions | None = None
    """How it is quantized; None where it is not."""
    kv_cache: CacheSettings = CacheSettings()
    """How a decoder keeps keys and values."""
    approximates: str = ""
    """Where the recipe names a mode that can only be approximated: its name, and what differs."""
    engine: EngineOptions
    """For what, and how, the engine is built."""
    measure: MeasureOptions
    """How it is timed."""
    gates: Gates
    """What it must reach."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing of it is quantized: others may be compared with it."""
        return self.quantize is None and self.kv_cache.mode == "float"


def variants(recipe: Recipe) -> dict[str, Variant]:
    """The final variants by name, in the recipe's order. Raises RecipeError where some cannot be resolved."""
    found, findings = expanded(recipe)
    if findings:
        raise RecipeError([Problem(".".join(map(str, at.path)), at.message, at.hint) for at in findings])
    return found


def reference(recipe: Recipe, found: dict[str, Variant]) -> str:
    """The name of the variant that every other is compared with."""
    return recipe.reference or next(name for name, variant in found.items() if variant.is_plain)


def expanded(recipe: Recipe) -> tuple[dict[str, Variant], list[Finding]]:
    """The variants that can be resolved, and what is wrong with the others."""
    shared = recipe.model_dump(exclude_unset=True, by_alias=True)
    found: dict[str, Variant] = {}
    findings: list[Finding] = []
    for spelled, own in shared["variants"].items():
        for name, settings in _multiplied(spelled, own, shared.get("matrix", {})):
            if name in found:
                findings.append(
                    Finding(("variants", spelled), f"two variants are named {name} once the matrix is expanded")
                )
            elif len(found) >= MOST_VARIANTS:
                return found, [Finding(("matrix",), f"asks for more than {MOST_VARIANTS} variants")]
            else:
                resolved = _resolved(name, spelled, settings, shared)
                if isinstance(resolved, Finding):
                    findings.append(resolved)
                else:
                    found[name] = resolved
    return found, findings


def _multiplied(name: str, own: dict[str, Any], matrix: dict[str, list[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The variant once for each value of each axis on which it is silent."""
    if not matrix:
        yield name, own
        return
    (axis, values), *others = matrix.items()
    path = axis.split(".")
    if _has(own, path) or (path[0] == "quantize" and len(path) > 1 and own.get("quantize") is None):
        # An axis inside `quantize` tells nothing to a variant that does not quantize.
        yield from _multiplied(name, own, dict(others))
        return
    for value in values:
        yield from _multiplied(f"{name}-{_suffix(value)}", _with(own, path, value), dict(others))


def _resolved(name: str, spelled: str, own: dict[str, Any], shared: dict[str, Any]) -> Variant | Finding:
    settings: dict[str, Any] = {key: own[key] for key in ("description", "precision") if key in own}
    settings["keep_fp32"] = own["keep_fp32"] if own.get("keep_fp32") is not None else shared.get("keep_fp32", [])
    for key in ("engine", "measure", "gates", "kv_cache"):
        settings[key] = merged(_mapping(shared.get(key, {})), _mapping(own.get(key, {})))
    if own.get("quantize") is not None:
        settings["quantize"] = merged(shared.get("quantize", {}), own["quantize"])
        if settings["quantize"].get("format") is None:
            message = f"variants.{spelled}.quantize has no format, and neither has the recipe's quantize"
            return Finding(("variants", spelled, "quantize"), message, "for example format: w8a16")
        settings["approximates"] = _make_canonical(settings["quantize"])
    if (cache := meaning_of_cache(settings["kv_cache"].get("mode", "float"))) is not None:
        settings["kv_cache"]["mode"] = cache.kv_cache
        settings["approximates"] = "; ".join(filter(None, [settings.get("approximates"), _lost(cache)]))
    try:
        return Variant.model_validate({"name": name, "spelled": spelled, **settings})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"]))
        return Finding(("variants", spelled), f"variant {name}: {where}: {detail['msg']}")


def _make_canonical(quantize: dict[str, Any]) -> str:
    """Replace a format's name by what it stands for; returns what that loses, empty where nothing."""
    if quantize["format"] == AUTO:
        return ""
    meaning = meaning_of(quantize["format"])
    quantize["format"] = meaning.canonical
    if meaning.block_size:
        quantize.setdefault("block_size", meaning.block_size)
    if meaning.rounding != "nearest":
        quantize.setdefault("rounding", meaning.rounding)
    return _lost(meaning)


def _lost(meaning: Meaning) -> str:
    return f"{meaning.name} ({meaning.family}): {meaning.reason}" if meaning.mapping == "approximated" else ""


def _mapping(value: Any) -> dict[str, Any]:
    """A mapping as it is, a cache's mode that the matrix spells alone as one."""
    return {"mode": value} if isinstance(value, str) else value


def _has(own: dict[str, Any], path: list[str]) -> bool:
    here: Any = own
    for key in path:
        if not isinstance(here, dict) or key not in here:
            return False
        here = here[key]
    return True


def _with(own: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(own)
    here = changed
    for key in path[:-1]:
        here = here.setdefault(key, {})
    here[path[-1]] = value
    return changed


def _suffix(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return re.sub(r"[^a-z0-9._-]+", "_", text.lower()).strip("_") or "none"
