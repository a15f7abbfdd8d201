"""Make the samples that calibration and validation share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from trtbuild.core.artifacts import Samples
from trtbuild.core.errors import DataError
from trtbuild.core.python_entry import iterate_entry
from trtbuild.core.sources import SAMPLE_IDS, SampleSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.tensors import Shapes

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Tensors


class Sampled(NamedTuple):
    """Three disjoint sets."""

    calibration: Samples
    """To calibrate on."""
    selection: Samples
    """To choose formats on: made with the calibration samples and kept from calibration. May be empty."""
    evaluation: Samples
    """Held out, to validate on."""


class _Batch(NamedTuple):
    """One batch as its generator yielded it, checked."""

    tensors: Tensors
    sources: list[str | None]
    """Where each row came from, where the generator tells."""

    def rows(self, start: int, end: int | None) -> _Batch:
        """Some of its rows."""
        return _Batch({name: array[start:end] for name, array in self.tensors.items()}, self.sources[start:end])


@stage(version=2)
def sample(source: SampleSource, shapes: Shapes, work: Workspace) -> Sampled:
    """Make calibration and evaluation samples."""
    asked = source.calibration + source.selection
    made = list(_checked(source, "calibration", asked, shapes)) if asked else []
    calibration, selection = _parted(made, source.calibration)
    evaluation = list(_checked(source, "evaluation", source.evaluation, shapes)) if source.evaluation else []
    if seen := _digests(made) & _digests(evaluation):
        raise DataError(
            f"{source.python.entry}: {len(seen)} samples are in both the calibration and the evaluation set",
            hint="held-out samples must not be calibrated on; make the two splits disjoint",
        )
    return Sampled(
        _written(work, "calibration", calibration),
        _written(work, "selection", selection),
        _written(work, "evaluation", evaluation),
    )


def _parted(batches: list[_Batch], rows: int) -> tuple[list[_Batch], list[_Batch]]:
    """The batches that hold the first rows, and those that hold the others."""
    first: list[_Batch] = []
    others: list[_Batch] = []
    for batch in batches:
        left = rows - sum(_rows(each.tensors) for each in first)
        if left >= _rows(batch.tensors):
            first.append(batch)
        elif left <= 0:
            others.append(batch)
        else:
            first.append(batch.rows(0, left))
            others.append(batch.rows(left, None))
    return first, others


def _written(work: Workspace, split: str, batches: list[_Batch]) -> Samples:
    from trtbuild.core.tensor_file import write_batches  # numpy and safetensors: a plan must not load them

    samples = work.new(Samples, split)
    write_batches(samples.main, (batch.tensors for batch in batches))
    facts = {
        "split": split,
        "rows": sum(_rows(batch.tensors) for batch in batches),
        "batches": [{name: list(tensor.shape) for name, tensor in batch.tensors.items()} for batch in batches],
        "row_sha256": [digest for batch in batches for digest in _row_digests(batch.tensors)],
        "sources": [told for batch in batches for told in batch.sources],
    }
    (samples.path / "samples.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return samples


def _digests(batches: list[_Batch]) -> set[str]:
    return {digest for batch in batches for digest in _row_digests(batch.tensors)}


def _checked(source: SampleSource, split: str, wanted: int, shapes: Shapes) -> Iterator[_Batch]:
    import numpy as np

    entry = source.python.entry
    rows = 0
    yielded = iterate_entry(source.python, split=split, count=wanted)
    for number, batch in enumerate(yielded):
        if not isinstance(batch, dict) or set(batch) - {SAMPLE_IDS} != set(shapes.inputs):
            found = ", ".join(batch) if isinstance(batch, dict) else type(batch).__name__
            raise DataError(
                f"{entry}: {split} sample {number} has {found}; the recipe's inputs are {', '.join(shapes.inputs)}"
            )
        arrays = {name: np.asarray(batch[name]) for name in shapes.inputs}
        for name, array in arrays.items():
            if misfit := shapes.misfit(name, str(array.dtype), array.shape):
                raise DataError(f"{entry}: {split} sample {number}: {misfit}")
            if not np.isfinite(array).all():
                raise DataError(f"{entry}: {split} sample {number}: {name} holds NaN or infinity")
        rows += _rows(arrays)
        yield _Batch(arrays, _sources(f"{entry}: {split} sample {number}", batch.get(SAMPLE_IDS), _rows(arrays)))
    if rows == 0:
        raise DataError(
            f"{entry} made no {split} samples",
            hint="trtbuild never calibrates or validates on random data; let the generator yield real inputs",
        )


def _rows(batch: Tensors) -> int:
    first = next(iter(batch.values()))
    return int(first.shape[0]) if first.ndim else 1


def _sources(place: str, told: Any, rows: int) -> list[str | None]:
    if told is None:
        return [None] * rows
    if not isinstance(told, list) or len(told) != rows or not all(isinstance(each, str) for each in told):
        raise DataError(f"{place}: {SAMPLE_IDS} must be a list of {rows} texts, one a row")
    return list(told)


def _row_digests(batch: Tensors) -> list[str]:
    """One digest a row, of every input's bytes, by which a leak between the splits shows."""
    return [
        hashlib.sha256(b"".join(tensor[row].tobytes() for tensor in batch.values())).hexdigest()
        for row in range(_rows(batch))
    ]
