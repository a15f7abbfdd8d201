from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.core.knapsack import Option, cost, error, frontier, trade_offs

options = st.lists(
    st.builds(Option, st.just("one"), st.integers(0, 20).map(float), st.integers(0, 20).map(float)),
    min_size=1,
    max_size=4,
)
many = st.lists(options, min_size=1, max_size=4)


@given(many)
def test_no_selection_costs_less_for_as_little_error(things: list[list[Option]]) -> None:
    everything = [(cost(selection), error(selection)) for selection in product(*things)]
    for selection in frontier(things):
        best = min(price for price, erring in everything if erring <= error(selection))
        assert cost(selection) == best


@given(many)
def test_the_chain_goes_from_the_cheapest_to_the_most_accurate(things: list[list[Option]]) -> None:
    chain = frontier(things)
    assert cost(chain[0]) == sum(min(option.cost for option in thing) for thing in things)
    assert error(chain[-1]) == sum(min(option.error for option in thing) for thing in things)
    for before, after in pairwise(chain):
        assert cost(before) < cost(after)
        assert error(before) > error(after)


@given(many)
def test_every_price_of_error_meets_its_best_selection(things: list[list[Option]]) -> None:
    chain = frontier(things)
    for price in (0.01, 0.3, 1.0, 4.0, 50.0):
        best = min(cost(selection) + price * error(selection) for selection in product(*things))
        assert min(cost(selection) + price * error(selection) for selection in chain) == pytest.approx(best)


@given(many)
def test_trade_offs_are_all_that_nothing_beats(things: list[list[Option]]) -> None:
    everything = {(cost(selection), error(selection)) for selection in product(*things)}
    beaten = {
        one
        for one in everything
        if any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in everything)
    }
    assert [(cost(one), error(one)) for one in trade_offs(things)] == sorted(everything - beaten)


def test_many_things_are_traded_off_in_a_bounded_number_of_steps() -> None:
    things = [[Option("low", 1.0, 1.37**number), Option("high", 2.0 + number / 7, 0.0)] for number in range(60)]
    found = trade_offs(things, resolution=500)
    assert 60 < len(found) <= 501
    assert cost(found[0]) == 60
    assert error(found[-1]) == 0


def test_of_two_that_cost_the_same_the_more_accurate_is_taken() -> None:
    assert frontier([[Option("a", 1, 2), Option("b", 1, 1)]]) == [(Option("b", 1, 1),)]


def test_a_thing_without_options_is_an_error() -> None:
    with pytest.raises(ValueError, match="without options"):
        frontier([[]])
