"""Draws against the distribution they claim."""

from __future__ import annotations

import numpy as np
import pytest

from trtbuild.core.errors import DataError
from trtbuild.decoding.sampling import Sampling, choose

PROBABILITIES = np.array([0.1, 0.5, 0.05, 0.3, 0.05])
LOGITS = np.log(PROBABILITIES) + 7


def shares(sampling: Sampling, draws: int = 4000) -> np.ndarray:
    generator = np.random.default_rng(0)
    drawn = [choose(LOGITS, sampling, generator) for _ in range(draws)]
    return np.bincount(drawn, minlength=5) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), PROBABILITIES),
        (Sampling(temperature=0.5), PROBABILITIES**2 / (PROBABILITIES**2).sum()),
        (Sampling(temperature=1.0, top_k=2), np.array([0, 0.625, 0, 0.375, 0])),
        (Sampling(temperature=1.0, top_p=0.7), np.array([0, 0.625, 0, 0.375, 0])),
        (Sampling(temperature=1.0, top_p=0.85), np.array([0.1, 0.5, 0, 0.3, 0]) / 0.9),
        (Sampling(temperature=1.0, top_p=0.01), np.array([0, 1.0, 0, 0, 0])),
        (Sampling(temperature=1.0, top_k=99), PROBABILITIES),
    ],
)
def test_tokens_come_as_often_as_they_should(sampling: Sampling, expected: np.ndarray) -> None:
    found = shares(sampling)
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert (found[expected == 0] == 0).all()


def test_no_temperature_takes_the_likeliest() -> None:
    assert choose(LOGITS, Sampling(), np.random.default_rng(0)) == 1


def test_a_token_masked_with_minus_infinity_is_never_drawn() -> None:
    generator = np.random.default_rng(0)
    logits = np.array([-np.inf, 0.0, 0.0])
    assert {choose(logits, Sampling(temperature=1.0), generator) for _ in range(50)} == {1, 2}


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}])
def test_impossible_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
