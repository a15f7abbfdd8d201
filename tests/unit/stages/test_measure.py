"""Timing in turns, by a session's own clock where it has one."""

from __future__ import annotations

import numpy as np
import pytest

from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Session
from trtbuild.stages.measure import BLOCK, LEAST, MeasureOptions, time_in_turns, uncertainty


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
    assert session.calls == 2 + 7 + 1, "the first call of each later turn is not timed"


def test_a_session_with_a_clock_of_its_own_is_asked_in_turns() -> None:
    turns: list = []
    first, second = Own(turns), Own(turns)
    times = time_in_turns([first, second], {}, MeasureOptions(runs=7, warm_up=2, cuda_graph=True))
    assert times == [[7.0] * 7] * 2
    assert turns == [
        *((each, BLOCK, 2, True) for each in (first, second)),
        *((each, 7 - BLOCK, 1, True) for each in (first, second)),
    ]
    assert first.calls == 0


def test_a_session_without_cuda_graphs_says_so() -> None:
    with pytest.raises(ModelError, match="launches no CUDA graphs"):
        time_in_turns([Counting()], {}, MeasureOptions(cuda_graph=True))


class Noisy(Counting):
    """A session whose calls take a time with noise, and whose turns may differ."""

    def __init__(self, median_ms: float, noise: float, seed: int, between_turns: float = 0.0) -> None:
        super().__init__()
        self._median, self._noise, self._between = median_ms, noise, between_turns
        self._random = np.random.default_rng(seed)

    def time(self, inputs, runs, warm_up, *, cuda_graph=False):
        level = self._median * np.exp(self._between * self._random.standard_normal())
        return list(level * np.exp(self._noise * self._random.standard_normal(runs)))


def test_a_quiet_machine_is_believed_early_and_a_noisy_one_is_asked_to_the_end() -> None:
    quiet = [Noisy(10, 0.002, seed) for seed in (1, 2)]
    noisy = [Noisy(10, 0.2, seed) for seed in (1, 2)]
    assert len(time_in_turns(quiet, {}, MeasureOptions(runs=40))[0]) == LEAST
    assert len(time_in_turns(noisy, {}, MeasureOptions(runs=40))[0]) == 40
    assert len(time_in_turns(quiet, {}, MeasureOptions(runs=40, uncertainty=0.0))[0]) == 40


@pytest.mark.parametrize("between_turns", [0.0, 0.01])
def test_the_uncertainty_holds_the_true_speed_up_although_timing_stops_when_it_looks_small(
    between_turns: float,
) -> None:
    held, stopped = 0, 0
    for seed in range(100):
        engine, reference = Noisy(10, 0.015, 2 * seed, between_turns), Noisy(15, 0.015, 2 * seed + 1, between_turns)
        times = time_in_turns([engine, reference], {}, MeasureOptions())
        found = np.median(times[1]) / np.median(times[0])
        held += abs(1.5 / found - 1) <= uncertainty(times)
        stopped += len(times[0]) < 20
    assert stopped >= 30, "most of these machines are quiet enough"
    assert held >= 85


def test_turns_that_disagree_count_although_each_is_quiet() -> None:
    engine = [10.0, 10.1, 10.0, 10.1, 10.0, 12.0, 12.1, 12.0, 12.1, 12.0]
    assert uncertainty([engine, [20.0, 20.1] * 5]) > 0.15


def test_of_several_engines_the_worst_known_counts() -> None:
    quiet, noisy = [10.0, 10.1] * 5, [8.0, 12.0] * 5
    assert uncertainty([noisy, quiet, quiet]) == uncertainty([noisy, quiet])
    assert uncertainty([quiet, noisy, quiet]) == uncertainty([noisy, quiet])
    assert uncertainty([quiet, quiet]) < 0.02 < uncertainty([noisy])
