"""The few members of a set that make a test fail, by successive binary search.

Used to repair a quantization: which modules must go back to high precision for the accuracy gates to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class OutOfReach(Exception):
    """The test fails although every member was put aside."""


def smallest_set(
    order: Sequence[str], passes: Callable[[frozenset[str]], bool], *, evaluations: int | None = None
) -> frozenset[str]:
    """A set of members of `order` to put aside so that `passes(set)` holds, from which none can be taken back.

    `order` lists the suspects, most likely first. The shortest prefix that passes ends in a culprit: its last member
    is needed whatever of the others is put aside. That one is kept, and the search repeats among those before it until
    the culprits found suffice (the scheme of QuickXplain, Junker 2004, with prefixes for halves). m culprits among n
    take about m * (log2(n) + 1) evaluations. Where putting more aside never makes the test fail, the set is minimal;
    and where only one minimal set exists, that one is found exactly.

    After `evaluations` calls the smallest set known to pass is returned, minimal or not. Raises OutOfReach where the
    test fails with all of `order` put aside, and ValueError where `evaluations` is below 1.
    """
    if evaluations is not None and evaluations < 1:
        raise ValueError("at least one evaluation is needed")
    known: dict[frozenset[str], bool] = {}

    def spent() -> bool:
        return evaluations is not None and len(known) >= evaluations

    def holds(members: frozenset[str]) -> bool:
        if members not in known:
            known[members] = passes(members)
        return known[members]

    suspects = list(order)
    culprits: frozenset[str] = frozenset()
    best = frozenset(suspects)
    if not holds(best):
        raise OutOfReach
    while not spent() and not holds(culprits):
        # The prefix of length `low` is known to fail, that of length `high` to pass.
        low, high = 0, len(suspects)
        while high - low > 1 and not spent():
            middle = (low + high) // 2
            trial = culprits.union(suspects[:middle])
            if holds(trial):
                high, best = middle, trial
            else:
                low = middle
        if high - low > 1:
            return best
        culprits |= {suspects[high - 1]}
        suspects = suspects[: high - 1]
        best = culprits.union(suspects)
    return culprits if known.get(culprits, False) else best
