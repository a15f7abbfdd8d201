"""Which sample goes where: by its content alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.core.errors import DataError
from trtbuild.datasets.selection import apportioned, batches, digest, split_of, take

SAMPLES = [(digest(str(number).encode()), number) for number in range(400)]


def test_a_quarter_is_held_out_and_the_splits_share_nothing() -> None:
    held_out = {number for identity, number in SAMPLES if split_of(identity, 0.25) == "evaluation"}
    assert 75 <= len(held_out) <= 125
    calibration = take(SAMPLES, "calibration", 400 - len(held_out), held_out=0.25, what="numbers")
    evaluation = take(SAMPLES, "evaluation", len(held_out), held_out=0.25, what="numbers")
    assert set(evaluation) == held_out
    assert sorted(calibration + evaluation) == list(range(400))


def test_holding_out_more_moves_samples_one_way_only() -> None:
    held_out = [
        {number for identity, number in SAMPLES if split_of(identity, share) == "evaluation"} for share in (0.1, 0.5)
    ]
    assert held_out[0] < held_out[1]


def test_equal_samples_count_once() -> None:
    alike = SAMPLES[:4] * 3
    count = sum(split_of(identity, 0.25) == "calibration" for identity, _ in SAMPLES[:4])
    assert len(take(alike, "calibration", count, held_out=0.25, what="numbers")) == count
    with pytest.raises(
        DataError, match=rf"calibration split has {count} numbers, {count + 1} are wanted \(of 4 different"
    ):
        take(alike, "calibration", count + 1, held_out=0.25, what="numbers")


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_a_share_that_leaves_a_split_empty_is_refused(share: float) -> None:
    with pytest.raises(DataError, match="held_out"):
        take(SAMPLES, "calibration", 1, held_out=share, what="numbers")


def test_parts_do_not_run_together() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


@given(
    st.integers(0, 5000), st.dictionaries(st.text("abcdef", min_size=1), st.floats(0.01, 100), min_size=1, max_size=6)
)
def test_shares_are_exact_whatever_the_order(count: int, weights: dict[str, float]) -> None:
    shares = apportioned(count, weights)
    assert sum(shares.values()) == count
    total = sum(weights.values())
    assert all(abs(shares[name] - count * weights[name] / total) < 1 for name in weights)
    assert shares == apportioned(count, dict(reversed(weights.items())))


@pytest.mark.parametrize("weight", [0, -1, "half", float("inf"), float("nan"), True, None])
def test_a_weight_must_be_a_positive_number(weight: object) -> None:
    with pytest.raises(DataError, match="weight of 'a'"):
        apportioned(4, {"a": weight})


def test_batches_end_with_what_is_left() -> None:
    assert [list(group) for group in batches(range(5), 2)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(DataError, match="batch is 0"):
        list(batches(range(5), 0))
