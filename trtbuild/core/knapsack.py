"""One option for each of many things, at the least cost for an error: the multiple-choice knapsack.

Solved by its Lagrangian relaxation (Sinha and Zoltners 1979): for a price of error each thing takes the option with the
least cost + price * error by itself. Only options on the lower convex hull of a thing's (error, cost) points are ever
taken, and as the price rises from zero the selection moves along the hulls one edge at a time, so that all prices
together give one short chain of selections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Option:
    """One way to do one thing."""

    name: str
    cost: float
    error: float
    """In a unit that adds up over things."""


Selection = tuple[Option, ...]
"""One option for each thing, in the order of the things."""


def frontier(things: Sequence[Sequence[Option]]) -> list[Selection]:
    """The optimal selections for every price of error, from the cheapest to the most accurate.

    Each costs the least among all selections with no more error than its own. Cost rises and error falls along the
    list. Raises ValueError where a thing has no option.
    """
    hulls = [_hull(options) for options in things]
    edges = sorted(
        (
            (_price(before, after), thing, step, after)
            for thing, hull in enumerate(hulls)
            for step, (before, after) in enumerate(pairwise(hull))
        ),
        key=lambda edge: edge[:3],
    )
    selection = [hull[0] for hull in hulls]
    chain = [tuple(selection)]
    for _, thing, _, option in edges:
        selection[thing] = option
        chain.append(tuple(selection))
    return chain


def trade_offs(things: Sequence[Sequence[Option]], resolution: int = 1024) -> list[Selection]:
    """The selections that no other beats in both cost and error, from the cheapest to the most accurate.

    Finer than `frontier`, which has only those that lie on a convex line. Found thing by thing (Nemhauser and Ullmann
    1969); of partial selections whose costs are closer than the greatest total cost / `resolution` only the most
    accurate is followed.
    """
    greatest = sum(max(option.cost for option in options) for options in things)
    width = greatest / resolution or 1.0
    partial: list[tuple[float, float, Selection]] = [(0.0, 0.0, ())]
    for options in things:
        longer = [
            (spent + option.cost, erred + option.error, (*chosen, option))
            for spent, erred, chosen in partial
            for option in options
        ]
        best: dict[int, tuple[float, float, Selection]] = {}
        for one in longer:
            step = round(one[0] / width)
            if step not in best or (one[1], one[0]) < (best[step][1], best[step][0]):
                best[step] = one
        partial = []
        for one in sorted(best.values(), key=lambda one: one[:2]):
            if not partial or one[1] < partial[-1][1]:
                partial.append(one)
    return [chosen for _, _, chosen in partial]


def _price(before: Option, after: Option) -> float:
    """Cost paid for each unit of error that the step to `after` removes."""
    return (after.cost - before.cost) / (before.error - after.error)


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull, cheapest first; of equal ones the first."""
    if not options:
        raise ValueError("a thing without options cannot be decided")
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.cost, option.error)):
        if hull and option.error >= hull[-1].error:
            continue  # it costs no less and errs no less
        while len(hull) > 1 and _price(hull[-2], hull[-1]) > _price(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def cost(selection: Selection) -> float:
    """Of all its options together."""
    return sum(option.cost for option in selection)


def error(selection: Selection) -> float:
    """Of all its options together."""
    return sum(option.error for option in selection)
