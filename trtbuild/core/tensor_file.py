"""Tensors by name in a safetensors file: no code runs on load, large files are mapped, not read.

Sample batches are keyed `00012/input_ids`: five digits for the batch, then the tensor's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from trtbuild.core.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors by name, sorted, so that equal tensors give equal bytes."""
    # np.ascontiguousarray would make a scalar one-dimensional.
    save_file({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}, path)


def read_tensors(path: Path) -> Tensors:
    """Read every tensor of a file. Raises DataError where it is missing or damaged."""
    return dict(_each(path))


def write_batches(path: Path, batches: Iterable[Tensors]) -> int:
    """Write batches in order; returns how many there were."""
    flat: Tensors = {}
    count = 0
    for count, batch in enumerate(batches, start=1):
        flat |= {f"{count - 1:05d}/{name}": tensor for name, tensor in batch.items()}
    write_tensors(path, flat)
    return count


class Batches(Sequence[Tensors]):
    """The batches of a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="numpy") as stored:
                keys = sorted(stored.keys())
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: not a readable tensor file: {error}") from error
        self._names: dict[str, list[str]] = {}
        for key in keys:
            batch, _, name = key.partition("/")
            self._names.setdefault(batch, []).append(name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        batch = sorted(self._names)[index]
        with safe_open(self._path, framework="numpy") as stored:
            return {name: stored.get_tensor(f"{batch}/{name}") for name in self._names[batch]}


def _each(path: Path) -> Iterator[tuple[str, Array]]:
    try:
        with safe_open(path, framework="numpy") as stored:
            for name in stored.keys():  # noqa: SIM118 - a safe_open handle is no mapping
                yield name, stored.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable tensor file: {error}") from error
