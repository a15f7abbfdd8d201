"""Rows of stored arrays: `generator: trtbuild.datasets.tensors:files`.

For inputs that something else prepared, decoded images for one: write them down once, and every build reads the same.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.sources import SAMPLE_IDS
from trtbuild.core.tensor_file import Tensors, read_tensors
from trtbuild.datasets.files import named
from trtbuild.datasets.selection import HELD_OUT, batches, digest, take


class Found(NamedTuple):
    """A row, before it is read for good."""

    shapes: tuple[tuple[int, ...], ...]
    """Of each array's row; only rows of equal shapes fit into one batch."""
    identity: bytes
    name: str
    row: int


def files(
    split: str,
    count: int,
    files: Sequence[Path],
    *,
    batch: int,
    inputs: Sequence[str] | Mapping[str, str] | None = None,
    held_out: float = HELD_OUT,
) -> Iterator[dict[str, Any]]:
    """Yield `count` rows of a split in batches of `batch` rows, each array [rows, ...] as its file holds it.

    `files` are .npz and .safetensors files, each with the same arrays by name and the samples along their first axis.
    `inputs` names the arrays to yield, by default all; as a mapping, the model's name of each: `{pixels: images}`.
    Rows are batched with rows of the same shape, so a batch may be smaller where files differ.

    Files are read one after the other, so memory must hold the largest file and the chosen rows. Raises DataError
    where a file cannot be read, its arrays do not fit, or a split has too few different rows.
    """
    sources = named(files, (".npz", ".safetensors"))
    wanted = dict(inputs) if isinstance(inputs, Mapping) else {name: name for name in inputs or ()}
    found: dict[bytes, Found] = {}
    for name, file in sources.items():
        arrays = _arrays(name, file, wanted)
        wanted = wanted or {each: each for each in sorted(arrays)}
        for row in range(len(next(iter(arrays.values())))):
            one = _row(name, row, arrays)
            found.setdefault(one.identity, one)
    candidates = ((identity, found[identity]) for identity in sorted(found))
    chosen = take(candidates, split, count, held_out=held_out, what="rows")
    rows = _read(chosen, sources, wanted)
    for shapes in sorted({one.shapes for one in chosen}):
        for group in batches([one for one in chosen if one.shapes == shapes], batch):
            yield {each: np.stack([rows[one.identity][each] for one in group]) for each in wanted} | {
                SAMPLE_IDS: [f"{one.name}:{one.row}" for one in group]
            }


def _row(name: str, row: int, arrays: Tensors) -> Found:
    parts = [(each, array.dtype.str, array.shape[1:], array[row].tobytes()) for each, array in sorted(arrays.items())]
    identity = digest(
        *(part for each, kind, shape, data in parts for part in (f"{each} {kind} {shape}".encode(), data))
    )
    return Found(tuple(shape for _, _, shape, _ in parts), identity, name, row)


def _read(chosen: list[Found], sources: dict[str, Path], wanted: dict[str, str]) -> dict[bytes, Tensors]:
    rows: dict[bytes, Tensors] = {}
    for name in {one.name: None for one in chosen}:
        arrays = _arrays(name, sources[name], wanted)
        rows |= {
            one.identity: {each: array[one.row].copy() for each, array in arrays.items()}
            for one in chosen
            if one.name == name
        }
    return rows


def _arrays(name: str, file: Path, wanted: dict[str, str]) -> Tensors:
    """The wanted arrays of a file, by the model's name of each; all of them where none is wanted by name."""
    stored = _load(name, file)
    if absent := [each for each in wanted.values() if each not in stored]:
        raise DataError(
            f"{name} has no array {', '.join(absent)}",
            hint=f"it has {', '.join(sorted(stored)) or 'none'}; set data.arguments.inputs",
        )
    arrays = {each: stored[key] for each, key in wanted.items()} if wanted else stored
    lengths = {each: len(array) if array.ndim else None for each, array in arrays.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        told = ", ".join(f"{each} {list(arrays[each].shape)}" for each in arrays)
        raise DataError(
            f"{name}: arrays must have the same number of rows on their first axis; it has {told or 'none'}"
        )
    return arrays


def _load(name: str, file: Path) -> Tensors:
    if file.suffix.lower() == ".safetensors":
        import ml_dtypes  # noqa: F401 - onnx brings it, and numpy learns bfloat16 from it

        return read_tensors(file)
    try:
        stored = np.load(file, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name, as .npy files do")
        with stored:
            return {each: stored[each] for each in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{name} is not a readable .npz file of plain arrays: {error}") from error
