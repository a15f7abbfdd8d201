"""A checkpoint in floats, however it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtbuild.checkpoints.quantized import in_floats
from trtbuild.checkpoints.reading import Checkpoint, read_checkpoint


def open_checkpoint(place: str | Path | Sequence[str], *, inside: str = "") -> Checkpoint:
    """The tensors of a checkpoint: a file, the files of its shards, or a folder with one or with an index of shards.

    `inside` names the entry of a PyTorch file that holds them, such as `generator` or `model.ema`. A weight that is
    quantized comes as the floats that its codes say; the codes are in the checkpoint's `quantized`. Raises ModelError
    where a file is missing, damaged, a Git-LFS pointer, holds more than tensors, or lies outside its folder, and where
    the checkpoint is quantized in a way that is not read here.
    """
    return in_floats(read_checkpoint(place, inside=inside))
