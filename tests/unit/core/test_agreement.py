import numpy as np
import pytest

from trtbuild.backends.polygraphy import Polygraphy
from trtbuild.core.agreement import compare, divergence, relative_error, snr_db
from trtbuild.core.roles import Session

random = np.random.default_rng(0)
TRUTH = [{"a": random.standard_normal((4, 3)).astype(np.float32), "b": random.random(5)} for _ in range(3)]
FOUND = [{name: tensor + 0.01 * random.standard_normal(tensor.shape) for name, tensor in one.items()} for one in TRUTH]


class Replay(Session):
    def __init__(self, outputs) -> None:
        self.outputs = iter(outputs)

    def infer(self, inputs):
        return next(self.outputs)

    def close(self) -> None:
        pass


def test_the_numbers_are_those_that_validation_finds() -> None:
    samples = [{"x": np.zeros(1, np.float32)} for _ in TRUTH]
    comparison, *_ = Polygraphy().compare(lambda: Replay(FOUND), lambda: Replay(TRUTH), samples, TRUTH)
    mine = compare(FOUND, TRUTH)
    for name, expected in comparison.against_model.items():
        assert mine.against_model[name].model_dump() == pytest.approx(expected.model_dump(), rel=1e-5)


def test_equal_outputs_have_finite_numbers() -> None:
    equal = compare(TRUTH, TRUTH).against_model["a"]
    assert (equal.cosine_min, equal.snr_db, equal.max_abs_error) == (pytest.approx(1), 200, 0)
    assert snr_db(0.0, 1.0) == -200


def test_outputs_that_are_not_finite_are_counted() -> None:
    found = compare([{**FOUND[0], "a": np.full((4, 3), np.nan)}, *FOUND[1:]], TRUTH)
    assert found.non_finite == {"a": 1}
    assert found.against_model == {}


def test_relative_error_is_the_root_mean_square_over_rows() -> None:
    truth = [{"y": np.array([[3.0, 4.0], [0.0, 1.0]])}]
    found = [{"y": np.array([[3.0, 4.5], [0.0, 1.2]])}]
    assert relative_error(found, truth) == pytest.approx(((0.1**2 + 0.2**2) / 2) ** 0.5)


def test_divergence_is_that_of_the_distributions() -> None:
    truth, found = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert divergence([{"logits": found + 7}], [{"logits": truth}]) == pytest.approx(expected)
