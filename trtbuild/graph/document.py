"""An ONNX model in and out of a file, and whether it fits the recipe's shapes."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.graph import external_data
from trtbuild.graph.protobuf import read_proto, write_model

INLINE_LIMIT_BYTES = 1 << 30
"""Weights of more than this go to a data file: protobuf ends at 2 GiB, and TensorRT's parser near it."""
INLINE_WEIGHT_BYTES = 1024
"""Weights up to this stay in model.onnx in either case: shape arithmetic must be readable without the data file."""


def load(path: Path) -> ir.Model:
    """Read an ONNX model; external weights are mapped from disk, not read.

    Raises ModelError where the file is missing, damaged or empty, or its external data is missing, truncated or
    outside its folder.
    """
    proto = read_proto(path)
    try:
        return external_data.bind(proto, path)
    except ir.serde.SerdeError as error:
        raise ModelError(f"{path}: not a valid ONNX model: {error}", hint="export it again") from error


def save(model: ir.Model, artifact: OnnxModel) -> None:
    """Write a model as `model.onnx`, with `model.onnx.data` beside it where weights exceed INLINE_LIMIT_BYTES.

    Equal models give equal bytes. Weights are streamed: the memory needed is that of the largest one.
    """
    total = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    data = artifact.path / f"{artifact.main.name}.data" if total > INLINE_LIMIT_BYTES else None
    write_model(model, artifact.main, data, INLINE_WEIGHT_BYTES)


def check_interface(model: ir.Model, shapes: Shapes, source: str) -> None:
    """Check that the graph takes what the recipe declares: names, element types, ranks and fixed lengths.

    `source` names the model in messages. Raises ModelError that names every missing or extra input, or the first
    input that differs.
    """
    found = {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}
    missing, extra = shapes.inputs.keys() - found.keys(), found.keys() - shapes.inputs.keys()
    if missing or extra:
        parts = [
            f"{word} {', '.join(sorted(names))}" for word, names in (("lacks", missing), ("also takes", extra)) if names
        ]
        raise ModelError(
            f"{source} has other inputs than the recipe declares: it {' and '.join(parts)}",
            hint=f"its inputs are {', '.join(found)}; write those under shapes.inputs",
        )
    for name, spec in shapes.inputs.items():
        if (misfit := _misfit(found[name], spec, shapes.axes)) is not None:
            raise ModelError(f"{source}: input {name!r} {misfit}", hint=f"correct shapes.inputs.{name} in the recipe")


def _misfit(value: ir.Value, spec: TensorSpec, axes: dict[str, AxisRange]) -> str | None:
    dtype = "of unknown type" if value.dtype is None else str(value.dtype.numpy())
    if dtype != spec.dtype:
        return f"is {dtype}, the recipe declares {spec.dtype}"
    if value.shape is None:
        return None
    if len(value.shape) != len(spec.dims):
        return f"has {len(value.shape)} dimensions, the recipe declares {len(spec.dims)}: {spec.dims}"
    for length, dim in zip(value.shape, spec.dims, strict=True):
        if not isinstance(length, int):
            continue
        allowed = {dim} if isinstance(dim, int) else {axes[dim].min, axes[dim].max}
        if allowed != {length}:
            return f"has a dimension fixed at {length} where the recipe declares {dim}"
    return None
