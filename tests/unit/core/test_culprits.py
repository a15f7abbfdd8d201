import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.core.culprits import OutOfReach, smallest_set

names = st.integers(1, 40).map(lambda count: [f"layer{number}" for number in range(count)])


class Asked:
    """A test that counts how often it is asked."""

    def __init__(self, answer) -> None:
        self.answer, self.count = answer, 0

    def __call__(self, aside: frozenset[str]) -> bool:
        self.count += 1
        return self.answer(aside)


@given(names, st.data())
def test_exactly_the_guilty_are_found_whatever_the_order(order: list[str], data: st.DataObject) -> None:
    guilty = data.draw(st.frozensets(st.sampled_from(order), max_size=6))
    passes = Asked(lambda aside: guilty <= aside)
    assert smallest_set(order, passes) == guilty
    assert passes.count <= 2 + len(guilty) * (math.ceil(math.log2(len(order))) + 1)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.floats(0, 40))
def test_errors_that_add_up_leave_a_set_that_cannot_shrink(errors: list[float], limit: float) -> None:
    by_name = {f"layer{number}": error for number, error in enumerate(errors)}

    def passes(aside: frozenset[str]) -> bool:
        return sum(error for name, error in by_name.items() if name not in aside) <= limit

    found = smallest_set(sorted(by_name, key=lambda name: -by_name[name]), passes)
    assert passes(found)
    assert not any(passes(found - {name}) for name in found)


@given(names, st.integers(1, 12), st.data())
def test_with_few_evaluations_the_set_still_passes(order: list[str], evaluations: int, data: st.DataObject) -> None:
    guilty = data.draw(st.frozensets(st.sampled_from(order), max_size=4))
    passes = Asked(lambda aside: guilty <= aside)
    assert guilty <= smallest_set(order, passes, evaluations=evaluations)
    assert passes.count <= evaluations


def test_one_culprit_listed_first_costs_a_handful_of_evaluations() -> None:
    order = [f"layer{number}" for number in range(200)]
    passes = Asked(lambda aside: "layer0" in aside)
    assert smallest_set(order, passes) == {"layer0"}
    assert passes.count <= 11


def test_nothing_is_put_aside_where_nothing_fails() -> None:
    assert smallest_set(["a", "b"], lambda aside: True) == frozenset()


def test_a_test_that_fails_in_any_case_is_out_of_reach() -> None:
    with pytest.raises(OutOfReach):
        smallest_set(["a", "b"], lambda aside: False)
