"""Make the samples that calibration and validation share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from trtbuild.core.artifacts import Samples
from trtbuild.core.errors import DataError
from trtbuild.core.python_entry import iterate_entry
from trtbuild.core.sources import SampleSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.tensors import Shapes

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Tensors


class Sampled(NamedTuple):
    """Two disjoint sets: one to calibrate on, one held out."""

    calibration: Samples
    evaluation: Samples


@stage(version=1)
def sample(source: SampleSource, shapes: Shapes, work: Workspace) -> Sampled:
    """Make calibration and evaluation samples."""
    from trtbuild.core.tensor_file import write_batches  # numpy and safetensors: a plan must not load them

    splits = []
    for split, wanted in (("calibration", source.calibration), ("evaluation", source.evaluation)):
        samples = work.new(Samples, split)
        batches = list(_checked(source, split, wanted, shapes)) if wanted else []
        write_batches(samples.main, batches)
        rows = [digest for batch in batches for digest in _row_digests(batch)]
        facts = {
            "split": split,
            "rows": sum(_rows(batch) for batch in batches),
            "batches": [{name: list(tensor.shape) for name, tensor in batch.items()} for batch in batches],
            "row_sha256": rows,
        }
        (samples.path / "samples.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        splits.append((samples, set(rows)))
    (calibration, seen), (evaluation, held_out) = splits
    if seen & held_out:
        raise DataError(
            f"{source.python.entry}: {len(seen & held_out)} samples are in both the calibration and the evaluation set",
            hint="held-out samples must not be calibrated on; make the two splits disjoint",
        )
    return Sampled(calibration, evaluation)


def _checked(source: SampleSource, split: str, wanted: int, shapes: Shapes) -> Iterator[Tensors]:
    import numpy as np

    entry = source.python.entry
    rows = 0
    for number, batch in enumerate(iterate_entry(source.python, split=split, count=wanted)):
        if not isinstance(batch, dict) or set(batch) != set(shapes.inputs):
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
        yield arrays
    if rows == 0:
        raise DataError(
            f"{entry} made no {split} samples",
            hint="trtbuild never calibrates or validates on random data; let the generator yield real inputs",
        )


def _rows(batch: Tensors) -> int:
    first = next(iter(batch.values()))
    return int(first.shape[0]) if first.ndim else 1


def _row_digests(batch: Tensors) -> list[str]:
    """One digest a row, of every input's bytes, by which a leak between the splits shows."""
    return [
        hashlib.sha256(b"".join(tensor[row].tobytes() for tensor in batch.values())).hexdigest()
        for row in range(_rows(batch))
    ]
