"""External data of an ONNX file: find it, check it, map it, and never read outside the model's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from trtbuild.core import git_lfs
from trtbuild.core.errors import ModelError
from trtbuild.graph.protobuf import read_proto


def locations(path: Path) -> list[Path]:
    """The files of external data that an ONNX file names, sorted; each exists inside the model's folder.

    Raises ModelError where the model or one of those files cannot be read.
    """
    proto = read_proto(path)
    tensors = [*proto.graph.initializer, *_nested_tensors(proto)]
    return sorted({_checked(tensor, path) for tensor in tensors if _is_external(tensor)})


def bind(proto: onnx.ModelProto, path: Path) -> ir.Model:
    """The model, with external weights of the main graph mapped from disk and all smaller ones read.

    Raises ModelError where data is missing, shorter than promised, or outside the model's folder.
    """
    for tensor in _nested_tensors(proto):
        if _is_external(tensor):
            _read(tensor, _checked(tensor, path))
    files = {tensor.name: _checked(tensor, path) for tensor in proto.graph.initializer if _is_external(tensor)}
    model: ir.Model = ir.from_proto(proto)
    for name, source in files.items():
        value = model.graph.initializers[name]
        external = value.const_value
        assert isinstance(external, ir.ExternalTensor)
        # onnx_ir refuses files with a second hard link, which is how content stores keep theirs. The checks here
        # have already proved that the file lies in the folder, so the tensor gets the resolved path and no folder.
        value.const_value = ir.ExternalTensor(
            source, external.offset, external.length, external.dtype, shape=external.shape, name=name
        )
    return model


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _nested_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor but the main graph's initializers: in attributes, subgraphs, functions, sparse weights."""
    yield from _sparse_and_attribute_tensors(proto.graph)
    for function in proto.functions:
        yield from _attribute_tensors(function.node)


def _sparse_and_attribute_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _attribute_tensors(graph.node)


def _attribute_tensors(nodes: list[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from graph.initializer
                yield from _sparse_and_attribute_tensors(graph)


def _checked(tensor: onnx.TensorProto, model: Path) -> Path:
    """The file of one external tensor, resolved. Looks at names and sizes only until the file is proved inside."""
    location = _entries(tensor).get("location", "")
    folder = model.parent.resolve()
    file = (folder / location).resolve()
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or not file.is_relative_to(folder):
        raise ModelError(
            f"{model}: weight {tensor.name!r} names external data outside the model's folder: {location!r}",
            hint="put the data file beside the model and save the model again; files outside its folder are never read",
        )
    if not file.is_file():
        raise ModelError(
            f"{model}: external data {location!r} of weight {tensor.name!r} is missing",
            hint=f"copy it to {file}; the model and its data files travel together",
        )
    if git_lfs.is_pointer(file):
        raise ModelError(f"{file} is a Git LFS pointer, not the weights", hint="run `git lfs pull` in that folder")
    _check_size(tensor, model, file)
    return file


def _check_size(tensor: onnx.TensorProto, model: Path, file: Path) -> None:
    offset, length = _span(tensor, model)
    size = file.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{file}: {size} bytes, but weight {tensor.name!r} lies at bytes {offset} to {offset + length}",
            hint="the file is truncated or belongs to another model: copy it again",
        )


def _span(tensor: onnx.TensorProto, model: Path) -> tuple[int, int]:
    """Offset and length in bytes; the length is at least what the shape needs, whatever the file says."""
    entries = _entries(tensor)
    try:
        needed = ir.from_proto(tensor).nbytes
        return int(entries.get("offset", 0)), max(int(entries.get("length", needed)), needed)
    except (ValueError, TypeError, ir.serde.SerdeError) as error:
        raise ModelError(
            f"{model}: weight {tensor.name!r} describes its external data wrongly: {error}",
            hint="export the model again",
        ) from error


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _read(tensor: onnx.TensorProto, file: Path) -> None:
    offset, length = _span(tensor, file)
    with file.open("rb") as stored:
        stored.seek(offset)
        tensor.raw_data = stored.read(length)
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT
