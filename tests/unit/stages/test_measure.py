"""Timing in turns, by a session's own clock where it has one."""

from __future__ import annotations

import pytest

from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Session
from trtbuild.stages.measure import BLOCK, MeasureOptions, time_in_turns


class Counting(Session):
    def __init__(self) -> None:
        self.calls = 0

    def infer(self, inputs):
        self.calls += 1
        return {}

    def close(self) -> None:
        pass


class Own(Counting):
    """A session with a clock of its own, as a GPU's."""

    def __init__(self, turns: list) -> None:
        super().__init__()
        self._turns = turns

    def time(self, inputs, runs, warm_up, *, cuda_graph=False):
        self._turns.append((self, runs, warm_up, cuda_graph))
        return [7.0] * runs


def test_calls_are_counted_by_the_clock_on_the_wall_where_nothing_better_is_there() -> None:
    session = Counting()
    (times,) = time_in_turns([session], {}, MeasureOptions(runs=7, warm_up=2))
    assert len(times) == 7
    assert all(0 <= each < 1000 for each in times)
    assert session.calls == 2 + 7 + 2, "one call of each turn is not timed"


def test_a_session_with_a_clock_of_its_own_is_asked_in_turns() -> None:
    turns: list = []
    first, second = Own(turns), Own(turns)
    times = time_in_turns([first, second], {}, MeasureOptions(runs=7, warm_up=2, cuda_graph=True))
    assert times == [[7.0] * 7] * 2
    assert turns == [
        *((each, 0, 2, True) for each in (first, second)),
        *((each, BLOCK, 1, True) for each in (first, second)),
        *((each, 7 - BLOCK, 1, True) for each in (first, second)),
    ]
    assert first.calls == 0


def test_a_session_without_cuda_graphs_says_so() -> None:
    with pytest.raises(ModelError, match="launches no CUDA graphs"):
        time_in_turns([Counting()], {}, MeasureOptions(cuda_graph=True))
