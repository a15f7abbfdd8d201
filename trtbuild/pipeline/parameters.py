"""How large a model is, read from its files' headers: no framework is imported and no weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from trtbuild.core.sources import ModelSource, OnnxSource

_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
"""Bytes of a safetensors element; every other type has 1."""


@dataclass(frozen=True)
class Parameters:
    """A model's weights by what is done with them."""

    stored_bytes: int
    multiplied: int
    """Elements of the matrices and kernels that rows are multiplied with."""
    gathered: int
    """Elements of embedding tables: rows are taken from them."""
    widths: tuple[int, ...]
    """The distinct lengths over which the matrices sum: block scales must divide them."""
    kernels: int
    """How many weights have spatial axes, as a convolution's do."""
    exact: bool
    """Whether shapes were read; else the count is the files' bytes taken for FP32."""

    @property
    def total(self) -> int:
        """All elements, up to norms and biases."""
        return self.multiplied + self.gathered


def parameters(source: ModelSource) -> Parameters | None:
    """The size of a source's model; None where no file of it tells, as with a function that makes its weights."""
    if isinstance(source, OnnxSource):
        return _counted(list(_of_onnx(source.file)))
    files = source.files
    if tensors := [file for file in files if file.suffix == ".safetensors"]:
        return _counted([entry for file in tensors for entry in _of_safetensors(file)])
    pickles = [file for file in files if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    size = sum(file.stat().st_size for file in pickles)
    return None if not size else Parameters(size, size // 4, 0, (), 0, exact=False)


def _counted(weights: list[tuple[str, tuple[int, ...], float]]) -> Parameters:
    """The sum over (name, shape as the framework stores it, bytes an element); vectors are norms and biases."""
    stored = int(sum(prod(shape) * size for _, shape, size in weights))
    wide = [(name, shape) for name, shape, _ in weights if len(shape) >= 2]
    tables = [shape for name, shape in wide if len(shape) == 2 and "embed" in name.lower()]
    products = [shape for name, shape in wide if not (len(shape) == 2 and "embed" in name.lower())]
    return Parameters(
        stored_bytes=stored,
        multiplied=sum(map(prod, products)),
        gathered=sum(map(prod, tables)),
        widths=tuple(sorted({shape[1] for shape in products if len(shape) == 2})),
        kernels=sum(len(shape) > 2 for shape in products),
        exact=True,
    )


def _of_safetensors(file: Path) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """The header: 8 bytes of little-endian length, then JSON [safetensors format]."""
    with file.open("rb") as stored:
        length = int.from_bytes(stored.read(8), "little")
        header = json.loads(stored.read(min(length, 100 << 20)))
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, tuple(entry["shape"]), _BYTES.get(entry["dtype"], 1)


def _of_onnx(file: Path) -> Iterator[tuple[str, tuple[int, ...], float]]:
    from trtbuild.graph import document  # only ONNX sources need the ONNX floor
    from trtbuild.graph.initializers import FLOATS, constant

    for value in document.load(file).graph.initializers.values():
        tensor = constant(value)
        if tensor is None or tensor.dtype not in FLOATS:
            continue
        shape = tuple(int(dim) for dim in tensor.shape.numpy())
        readers = {node.op_type for node in value.consumers()}
        # MatMul reads [in, out], and a table under whatever name is what Gather reads.
        turned = shape[::-1] if len(shape) == 2 and "MatMul" in readers else shape
        yield ("embed" if "Gather" in readers else value.name or ""), turned, tensor.dtype.itemsize
