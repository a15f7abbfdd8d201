"""Formats that quantize weights alone: their numbers need no run of the model."""

from __future__ import annotations

import numpy as np

from trtbuild.backends.modelopt_onnx.asked import Asked
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.quantization import ModuleQuantization
from trtbuild.core.tensor_file import Array


def weights_only(asked: Asked, form: Format) -> dict[str, ModuleQuantization]:
    """Greatest magnitudes of every weight, per output channel or in square tiles."""
    block = FORMATS[form].block
    found = {}
    for module in asked.nodes:
        matrix = np.abs(asked.weight(module))
        amax = _tiles(matrix, block) if block else matrix.reshape(len(matrix), -1).max(axis=1)
        found[module] = ModuleQuantization(form, weight_amax=amax, block_size=block)
    return found


def _tiles(matrix: Array, block: int) -> Array:
    """[out, ceil(in / block)]: the greatest of each tile of `block` x `block`, in each of the tile's rows."""
    columns = np.maximum.reduceat(matrix, np.arange(0, matrix.shape[1], block), axis=1)
    tiles: Array = np.maximum.reduceat(columns, np.arange(0, len(columns), block), axis=0)
    return np.repeat(tiles, block, axis=0)[: len(matrix)]
