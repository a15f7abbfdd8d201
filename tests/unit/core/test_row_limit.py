import numpy as np

from trtbuild.core.row_limit import first_rows, row_count


def batches(rows: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((rows, 2), number), "m": np.full(rows, number)} for number in range(3)]


def test_whole_batches_are_taken_and_the_last_is_cut() -> None:
    found = first_rows(batches(), 6)
    assert [batch["x"].shape for batch in found] == [(4, 2), (2, 2)]
    assert [batch["m"].shape for batch in found] == [(4,), (2,)]
    assert row_count(found) == 6


def test_more_rows_than_there_are_give_all() -> None:
    assert row_count(first_rows(batches(), 100)) == 12


def test_a_batch_whose_tensors_share_no_axis_stays_whole() -> None:
    mixed = [{"x": np.zeros((4, 2)), "table": np.zeros(3), "step": np.array(1)}] * 2
    assert [batch["x"].shape for batch in first_rows(mixed, 2)] == [(4, 2)]
