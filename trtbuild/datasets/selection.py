"""Which samples are calibrated on and which are held out: decided by the content of each sample alone.

A sample's digest is the sha256 of what the model sees of it. The digest's first eight bytes, read as a number between
0 and 1, put it into the evaluation split where they are below `held_out`, else into the calibration split. So the
splits are disjoint by construction, a file added later moves no sample from one to the other, and samples that are
equal are one sample, wherever they lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from trtbuild.core.errors import DataError

T = TypeVar("T")

HELD_OUT = 0.25
"""The share of all samples that go to evaluation, unless the recipe says another."""


def digest(*parts: bytes) -> bytes:
    """The identity of a sample: sha256 over its parts, each with its length before it, so that no two run together."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def split_of(identity: bytes, held_out: float) -> str:
    """`calibration` or `evaluation`, for a share `held_out` of all digests."""
    return "evaluation" if int.from_bytes(identity[:8], "big") < held_out * 2**64 else "calibration"


def take(
    candidates: Iterable[tuple[bytes, T]],
    split: str,
    count: int,
    *,
    held_out: float,
    what: str,
    seen: set[bytes] | None = None,
) -> list[T]:
    """The first `count` distinct candidates of a split, in the order in which they come, which must not depend on
    the files' order.

    `candidates` are pairs of digest and sample, read no further than needed. Digests in `seen` are passed over, and
    those taken are added to it. Raises DataError, which names `what`, where the split has fewer.
    """
    checked_share(held_out)
    taken: list[T] = []
    seen = set() if seen is None else seen
    others = 0
    for identity, sample in candidates:
        if identity in seen:
            continue
        seen.add(identity)
        if split_of(identity, held_out) != split:
            others += 1
            continue
        taken.append(sample)
        if len(taken) == count:
            return taken
    raise DataError(
        f"the {split} split has {len(taken)} {what}, {count} are wanted"
        f" (of {len(taken) + others} different ones, {held_out:g} are held out for evaluation)",
        hint=f"list more files under data.files, ask for fewer with data.{split}, or change held_out in data.arguments",
    )


def checked_share(held_out: float) -> float:
    """The share itself. Raises DataError where it leaves one of the splits empty."""
    if not 0 < held_out < 1:
        raise DataError(f"held_out is {held_out:g}; it must lie between 0 and 1", hint=f"leave it out for {HELD_OUT}")
    return held_out


def batches(samples: Sequence[T], rows: int) -> Iterator[Sequence[T]]:
    """Samples in groups of `rows`, the last one with what is left. Raises DataError where `rows` is less than one."""
    if rows < 1:
        raise DataError(f"batch is {rows}; it must be at least 1")
    for start in range(0, len(samples), rows):
        yield samples[start : start + rows]


def apportioned(count: int, weights: Mapping[str, Any]) -> dict[str, int]:
    """`count` divided by weights, exactly: the method of largest remainders (Hamilton); ties go by name.

    Raises DataError where a weight is not a positive number.
    """
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise DataError(f"the weight of {name!r} is {weight!r}; it must be a number above 0")
    total = sum(weights.values())
    quotas = {name: count * weights[name] / total for name in sorted(weights)}
    counts = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """The value itself. Raises DataError where it is none of the choices."""
    if value not in (known := list(choices)):
        raise DataError(f"{name} is {value!r}; it may be {', '.join(known)}", hint=f"set data.arguments.{name}")
    return value
