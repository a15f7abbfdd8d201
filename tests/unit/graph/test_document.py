"""Files in and out: every damaged input has one clear error, equal models have equal bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import run, sample
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.graph import document, external_data

WEIGHT = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)


def proto():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 64])],
        [value("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def external(tmp_path):
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    onnx.save(proto(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def relocate(path, location):
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())


def refused(path, words):
    with pytest.raises(ModelError, match=words) as caught:
        document.load(path)
    assert caught.value.hint


def test_missing_file(tmp_path):
    refused(tmp_path / "no.onnx", "there is no such file")


def test_lfs_pointer(tmp_path):
    (tmp_path / "m.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(tmp_path / "m.onnx", "git lfs pull")


@pytest.mark.parametrize("content", [b"not an onnx model at all", proto().SerializeToString()[:9000]])
def test_damaged_file(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", "not a readable ONNX model")


@pytest.mark.parametrize("content", [b"", onnx.ModelProto(ir_version=10).SerializeToString()])
def test_empty_graph(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", "no nodes")


def test_external_data_is_mapped_and_named(external):
    assert external_data.locations(external) == [external.parent / "w.bin"]
    tensor = document.load(external).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert (tensor.numpy() == WEIGHT).all()


def test_external_data_may_be_hard_linked(external):
    os.link(external.parent / "w.bin", external.parent.parent / "second")
    assert (document.load(external).graph.initializers["w"].const_value.numpy() == WEIGHT).all()


def test_external_data_missing(external):
    (external.parent / "w.bin").unlink()
    refused(external, "is missing")


def test_external_data_truncated(external):
    with (external.parent / "w.bin").open("r+b") as stored:
        stored.truncate(1000)
    refused(external, "1000 bytes, but weight 'w' lies at bytes 0 to 16384")


def test_external_data_is_an_lfs_pointer(external):
    (external.parent / "w.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(external, "git lfs pull")


@pytest.mark.parametrize("kind", ["absolute", "parent", "symlink"])
def test_external_data_outside_the_folder(external, kind):
    outside = external.parent.parent / "outside.bin"
    outside.write_bytes(WEIGHT.tobytes())
    if kind == "symlink":
        (external.parent / "w.bin").unlink()
        (external.parent / "w.bin").symlink_to(outside)
    else:
        relocate(external, str(outside) if kind == "absolute" else "../outside.bin")
    refused(external, "outside the model's folder")
    with pytest.raises(ModelError):
        external_data.locations(external)


def saved(model, folder):
    folder.mkdir()
    document.save(model, OnnxModel(folder))
    return folder / "model.onnx"


def test_inline_and_external_saves_hold_the_same_model(external, tmp_path, monkeypatch):
    inline = saved(document.load(external), tmp_path / "inline")
    monkeypatch.setattr(document, "INLINE_LIMIT_BYTES", 100)
    apart = saved(document.load(external), tmp_path / "apart")
    again = saved(document.load(inline), tmp_path / "again")
    assert not (tmp_path / "inline" / "model.onnx.data").exists()
    assert apart.read_bytes() == again.read_bytes()
    assert (tmp_path / "apart" / "model.onnx.data").read_bytes() == WEIGHT.tobytes()
    x = np.ones((2, 64), np.float32)
    for path in (inline, apart):
        onnx.checker.check_model(path, full_check=True)
        assert (run(path, x)[0] == x @ WEIGHT).all()


def test_saving_leaves_the_model_as_it_was(exported, tmp_path):
    path = exported("postnorm")
    model = document.load(path)
    first, second = saved(model, tmp_path / "a"), saved(model, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes() == path.read_bytes()
    assert np.isfinite(run(first, sample("postnorm"))[0]).all()


@pytest.mark.parametrize("data", [False, True])
def test_memory_stays_below_two_and_a_half_models(tmp_path, data):
    """Measured in a fresh process, against one that only imports."""
    source = tmp_path / "big.onnx"
    model = proto()
    for count in range(24):
        model.graph.initializer.append(numpy_helper.from_array(np.ones((1 << 21,), np.float32), f"big{count}"))
    onnx.save(model, source, save_as_external_data=data, location="big.data")
    size = sum(entry.stat().st_size for entry in tmp_path.iterdir())
    script = textwrap.dedent("""
        import pathlib, resource, sys
        import onnxruntime
        from trtbuild.core.artifacts import OnnxModel
        from trtbuild.graph import document
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        document.INLINE_LIMIT_BYTES = int(sys.argv[3])
        document.save(document.load(pathlib.Path(sys.argv[1])), OnnxModel(pathlib.Path(sys.argv[2])))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out"), "0" if data else str(1 << 30)]
    used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert used < 2.5 * size


def shapes(dtype="float32", dims=("batch", 64), name="x"):
    return Shapes(
        inputs={name: TensorSpec(dtype=dtype, dims=list(dims))}, axes={"batch": AxisRange(min=1, opt=2, max=4)}
    )


def test_interface_that_fits():
    document.check_interface(ir.from_proto(proto()), shapes(), "m.onnx")


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (shapes(name="z"), "lacks z and also takes x"),
        (shapes(dtype="int64"), "'x' is float32, the recipe declares int64"),
        (shapes(dims=("batch",)), "has 2 dimensions, the recipe declares 1"),
        (shapes(dims=("batch", 32)), "fixed at 64 where the recipe declares 32"),
        (shapes(dims=(3, "batch")), "fixed at 64 where the recipe declares batch"),
    ],
)
def test_interface_that_does_not_fit(declared, words):
    with pytest.raises(ModelError, match=words):
        document.check_interface(ir.from_proto(proto()), declared, "m.onnx")
