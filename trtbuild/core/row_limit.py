"""The first rows of a sequence of batches."""

from __future__ import annotations

from collections.abc import Iterable

from trtbuild.core.tensor_file import Tensors


def first_rows(batches: Iterable[Tensors], rows: int) -> list[Tensors]:
    """Batches until `rows` rows of the first axis are together; the last is cut where its tensors share that axis."""
    taken: list[Tensors] = []
    left = rows
    for batch in batches:
        if left <= 0:
            break
        lengths = {tensor.shape[0] if tensor.ndim else 1 for tensor in batch.values()}
        shared = len(lengths) == 1 and all(tensor.ndim for tensor in batch.values())
        taken.append({name: tensor[:left] for name, tensor in batch.items()} if shared else batch)
        left -= max(lengths)
    return taken


def row_count(batches: Iterable[Tensors]) -> int:
    """Rows of the first tensor's first axis, over all batches; a scalar is one row."""
    firsts = (next(iter(batch.values())) for batch in batches)
    return sum(int(first.shape[0]) if first.ndim else 1 for first in firsts)
