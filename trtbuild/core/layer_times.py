"""Where two engines of one network spend their time: layers that differ in their fusions, brought to the same parts.

An engine's layer may compute nodes of several modules, and another engine fuses others. What some layer of either
computes together is one part; each engine's time of a part is then the sum of its layers there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from trtbuild.core.results import LayerTime

OUTSIDE = ""
"""The block of what lies in none."""
_NAMED_BLOCKS = 3
_NAMED_MODULES = 3
_LEAST_SHARE = 0.01
"""Parts that differ by less of the reference's time are noise."""


class Part(NamedTuple):
    """What several engines compute in layers of their own."""

    keys: tuple[str, ...]
    """Blocks or modules, in the order in which they run; none for layers whose names tell no module."""
    times_ms: list[float]
    """The time of each engine."""


def blocks_of(modules: Iterable[str]) -> dict[str, str]:
    """The block of each module path: the longest prefix that ends in a number and holds at least two of the modules,
    such as `encoder.layer.3`; `OUTSIDE` where there is none."""
    paths = list(dict.fromkeys(modules))
    numbered = {path: [prefix for prefix in _prefixes(path) if prefix.rpartition(".")[2].isdigit()] for path in paths}
    held = Counter(prefix for prefixes in numbered.values() for prefix in prefixes)
    return {
        path: max((prefix for prefix in prefixes if held[prefix] > 1), key=len, default=OUTSIDE)
        for path, prefixes in numbered.items()
    }


def by_modules(layers: Iterable[tuple[Iterable[str], float]]) -> list[LayerTime]:
    """Layers of the same modules as one, with the sum of their milliseconds, in the order in which they come first."""
    spent: dict[tuple[str, ...], float] = {}
    for modules, median_ms in layers:
        key = tuple(dict.fromkeys(modules))
        spent[key] = spent.get(key, 0.0) + median_ms
    return [LayerTime(modules=list(key), median_ms=round(total, 4)) for key, total in spent.items()]


def parts(profiles: Sequence[Sequence[LayerTime]], key_of: Callable[[str], str]) -> list[Part]:
    """The finest parts whose times every profile tells, by the keys of their modules, in order of the first profile."""
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    for profile in profiles:
        for layer in profile:
            keys = [key_of(module) for module in layer.modules]
            for key in keys:
                root[find(key)] = find(keys[0])
    members: dict[str, list[str]] = {}
    for key in list(root):
        members.setdefault(find(key), []).append(key)
    times: dict[str | None, list[float]] = {key: [0.0] * len(profiles) for key in members}
    for number, profile in enumerate(profiles):
        for layer in profile:
            part = find(key_of(layer.modules[0])) if layer.modules else None
            times.setdefault(part, [0.0] * len(profiles))[number] += layer.median_ms
    return [Part(() if key is None else tuple(members[key]), spent) for key, spent in times.items()]


def slower(engine: Sequence[LayerTime], reference: Sequence[LayerTime]) -> list[str]:
    """Where an engine spends more time than its reference, in a few lines: blocks first, and in each its modules."""
    if not engine or not reference:
        return []
    profiles = (engine, reference)
    block_of = blocks_of(module for profile in profiles for layer in profile for module in layer.modules)
    total_ms = sum(layer.median_ms for layer in reference)
    costly = [part for part in parts(profiles, block_of.__getitem__) if _more(part) > _LEAST_SHARE * total_ms]
    costly.sort(key=_more, reverse=True)
    lines = [_line(part, profiles, block_of) for part in costly[:_NAMED_BLOCKS]]
    if left := costly[_NAMED_BLOCKS:]:
        lines.append(f"{len(left)} more blocks together: {sum(map(_more, left)):+.3f} ms")
    return lines


def _line(part: Part, profiles: Sequence[Sequence[LayerTime]], block_of: dict[str, str]) -> str:
    ours, theirs = part.times_ms
    said = f"{_spelled(part.keys)}: {ours:.3f} ms against {theirs:.3f} ms"
    inside = [
        [layer for layer in profile if layer.modules and block_of[layer.modules[0]] in part.keys]
        for profile in profiles
    ]
    modules = sorted(parts(inside, lambda module: module), key=_more, reverse=True)
    named = [each for each in modules[:_NAMED_MODULES] if _more(each) > 0 and each.keys]
    if len(modules) == 1 and len(part.keys) > 1:
        return f"{said}; the engine runs it as one fused region and tells no times inside"
    return said + (": " if named else "") + ", ".join(f"{_spelled(each.keys)} {_more(each):+.3f} ms" for each in named)


def _spelled(keys: Sequence[str]) -> str:
    if not keys:
        return "layers that name no module, such as conversions"
    named = [key or "outside the blocks" for key in keys]
    return named[0] if len(named) == 1 else f"{named[0]} to {named[-1]}"


def _more(part: Part) -> float:
    return part.times_ms[0] - part.times_ms[1]


def _prefixes(path: str) -> Iterator[str]:
    names = path.split(".")
    return (".".join(names[:end]) for end in range(1, len(names) + 1))
