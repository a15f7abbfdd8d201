"""ONNX's protobuf on disk: read it with clear errors, write it as a stream of deterministic bytes.

Protobuf builds a message in memory, then its bytes in memory again. A model is written here piece by piece instead: the
graph without its weights, then one weight at a time, each under its own tag and length. Readers see an ordinary file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from trtbuild.core import git_lfs
from trtbuild.core.errors import ModelError

ALIGNMENT = 64
"""Offsets in the data file are multiples of this many bytes, so that mapped weights are aligned for SIMD loads."""

_LENGTH_DELIMITED = 2
_MODEL_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_GRAPH_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_TENSOR_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file without its external data. Raises ModelError where it is missing or no ONNX model."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file", hint="check the path to the ONNX model")
    if git_lfs.is_pointer(path):
        raise ModelError(f"{path} is a Git LFS pointer, not the model", hint="run `git lfs pull` in that folder")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(
            f"{path}: not a readable ONNX model: the file is damaged, truncated or of another kind",
            hint="copy or export it again",
        ) from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{path}: the model has no nodes or no outputs", hint="export it again")
    return proto


def write_model(model: ir.Model, path: Path, data: Path | None, threshold: int) -> None:
    """Write a model; weights larger than `threshold` bytes go to the file `data` beside it, if one is given.

    Memory beyond the model's own is that of its largest weight.
    """
    proto = _without_weights(model)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    pieces = _pieces(model.graph, data, threshold)
    total = len(graph) + sum(len(_tag(_GRAPH_INITIALIZER, piece.size)) + piece.size for piece in pieces)
    with path.open("wb") as stored:
        stored.write(proto.SerializeToString(deterministic=True))
        stored.write(_tag(_MODEL_GRAPH, total))
        stored.write(graph)
        for piece in pieces:
            stored.write(_tag(_GRAPH_INITIALIZER, piece.size))
            stored.write(piece.head)
            if piece.inline:
                _write_data(piece.weight, stored)
    if data is not None:
        with data.open("wb") as stored:
            for piece in pieces:
                if piece.outside:
                    stored.write(b"\0" * (-stored.tell() % ALIGNMENT))
                    _write_data(piece.weight, stored)


@dataclass(frozen=True)
class _Piece:
    """One weight as it is written."""

    weight: ir.TensorProtocol
    head: bytes
    """Its message up to the data: name, type, shape, then its place outside or the tag of the data that follows."""
    inline: bool
    outside: bool

    @property
    def size(self) -> int:
        return len(self.head) + (self.weight.nbytes if self.inline else 0)


def _pieces(graph: ir.Graph, data: Path | None, threshold: int) -> list[_Piece]:
    pieces, offset = [], 0
    for name, value in graph.initializers.items():
        weight = value.const_value
        if weight is None:
            continue
        if weight.dtype == ir.DataType.STRING:  # has no fixed size; never large
            text = ir.to_proto(weight)
            text.name = name
            pieces.append(_Piece(weight, text.SerializeToString(deterministic=True), inline=False, outside=False))
            continue
        head = onnx.TensorProto(name=name, data_type=int(weight.dtype), dims=weight.shape.numpy())
        outside = data is not None and weight.nbytes > threshold
        if data is not None and outside:
            offset += -offset % ALIGNMENT
            head.data_location = onnx.TensorProto.EXTERNAL
            for key, entry in (("location", data.name), ("offset", offset), ("length", weight.nbytes)):
                head.external_data.add(key=key, value=str(entry))
            offset += weight.nbytes
        opening = head.SerializeToString(deterministic=True)
        if not outside:
            opening += _tag(_TENSOR_RAW_DATA, weight.nbytes)
        pieces.append(_Piece(weight, opening, inline=not outside, outside=outside))
    return pieces


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model's message with no initializers in its main graph; the model itself stays as it was."""
    weights = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    try:
        return ir.to_proto(model)
    finally:
        for weight in weights:
            model.graph.register_initializer(weight)


def _write_data(weight: ir.TensorProtocol, stored: IO[Any]) -> None:
    written = stored.write(weight.tobytes())
    assert written == weight.nbytes, f"{weight.name}: {written} bytes, not {weight.nbytes}"


def _tag(field: int, length: int) -> bytes:
    """The varints that open a length-delimited field."""
    encoded = bytearray()
    for number in (field << 3 | _LENGTH_DELIMITED, length):
        rest = number
        while rest > 0x7F:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
    return bytes(encoded)
