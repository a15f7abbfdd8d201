"""A graph lowered for TensorRT 8.6 is legal at opset 17 and computes the same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import MODELS, attention_ranges, make_plan, sample
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.dialects import TENSORRT_8
from trtbuild.core.errors import ModelError
from trtbuild.graph import document, insertion, tensorrt86


def run(path, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options).run(None, feeds)


def lowered(path, folder):
    """The lowered model's file, checked, and its nodes."""
    model = document.load(path)
    tensorrt86.lower(model)
    folder.mkdir()
    document.save(model, OnnxModel(folder))
    proto = onnx.load(folder / "model.onnx")
    assert proto.ir_version <= 8
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    onnx.checker.check_model(proto, full_check=True)
    return folder / "model.onnx", list(proto.graph.node)


def save(folder, nodes, inputs, constants=(), opset=21, outputs=("y",)):
    """A model of these nodes; inputs are [name, element type, shape]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if not any(each.domain for each in nodes):
        model = onnx.shape_inference.infer_shapes(model)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):  # no schema infers it
            value.CopyFrom(helper.make_tensor_value_info(value.name, *inputs[0][1:]))
    onnx.save(model, folder / "raw.onnx")
    return folder / "raw.onnx"


def node(op_type, inputs, output="y", **attributes):
    return helper.make_node(op_type, inputs, [output], name=f"block.part/{op_type}", **attributes)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_exported_models_compute_the_same(name, exported, tmp_path):
    path = exported(name)
    found, nodes = lowered(path, tmp_path / "lowered")
    assert not any(each.op_type == "Gelu" for each in nodes)
    np.testing.assert_allclose(
        run(found, {"x": sample(name)})[0], run(path, {"x": sample(name)})[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["postnorm", "cnn", "mlp"])
@pytest.mark.parametrize("dialect", [TENSORRT_8, None], ids=["floats", "codes"])
def test_quantized_models_compute_the_same(name, dialect, exported, tmp_path):
    path = exported(name)
    model = document.load(path)
    attention = {"attention": "int8", "ranges": attention_ranges(path, sample(name))} if name == "postnorm" else {}
    options = {} if dialect is None else {"dialect": dialect}
    insertion.insert(model, make_plan(path, sample(name), "int8"), **attention, **options)
    (tmp_path / "quantized").mkdir()
    document.save(model, OnnxModel(tmp_path / "quantized"))
    found, nodes = lowered(tmp_path / "quantized" / "model.onnx", tmp_path / "lowered")
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(found).graph.initializer}
    for each in nodes:
        if each.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert len(each.input) == 3, "the parser reads the third input"
            assert kinds[each.input[1]] == TensorProto.FLOAT
            assert kinds.get(each.input[0]) != TensorProto.INT8, "constant codes do not build"
    before = run(tmp_path / "quantized" / "model.onnx", {"x": sample(name)})[0]
    np.testing.assert_array_equal(run(found, {"x": sample(name)})[0], before)


@pytest.mark.parametrize(
    ("attributes", "operators"),
    [
        ({}, ["Shape"]),
        ({"start": 0}, ["Shape"]),
        ({"start": 1}, ["Shape", "Slice"]),
        ({"start": 1, "end": 2}, ["Shape", "Slice"]),
        ({"start": -2, "end": -1}, ["Shape", "Slice"]),
        ({"end": 99}, ["Shape"]),
        ({"start": 2, "end": 1}, ["Shape", "Slice"]),
    ],
)
def test_a_part_of_a_shape_is_a_slice(attributes, operators, tmp_path):
    path = save(tmp_path, [node("Shape", ["x"], **attributes)], [("x", TensorProto.FLOAT, ["a", "b", "c"])])
    found, nodes = lowered(path, tmp_path / "lowered")
    assert [each.op_type for each in nodes] == operators
    assert all(not each.attribute for each in nodes)
    x = np.zeros((3, 4, 5), np.float32)
    np.testing.assert_array_equal(run(found, {"x": x})[0], run(path, {"x": x})[0])


X = ("x", TensorProto.FLOAT, ["n", 6, 7, 8])
AXES = {"axes": np.array([1, -1])}
CASES = {
    "gelu": (node("Gelu", ["x"]), {}),
    "gelu_tanh": (node("Gelu", ["x"], approximate="tanh"), {}),
    "mish": (node("Mish", ["x"]), {}),
    "mean": (node("ReduceMean", ["x", "axes"], keepdims=0), AXES),
    "max": (node("ReduceMax", ["x", "axes"]), AXES),
    "all": (node("ReduceMean", ["x"]), {}),
    "none": (node("ReduceMean", ["x"], noop_with_empty_axes=1), {}),
    "pad": (node("Pad", ["x", "pads", "", "axes"]), {"pads": np.array([1, 2, 3, 4]), **AXES}),
    "group_norm": (
        node("GroupNormalization", ["x", "s", "b"], num_groups=3, epsilon=1e-3),
        {"s": np.linspace(1, 2, 6, dtype=np.float32), "b": np.linspace(-1, 1, 6, dtype=np.float32)},
    ),
    "grid": (
        node("GridSample", ["x", "grid"], mode="linear"),
        {"grid": np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)},
    ),
    "pool": (node("AveragePool", ["x"], kernel_shape=[2, 2], dilations=[1, 1]), {}),
    "cast": (node("Cast", ["x"], to=TensorProto.INT32, saturate=1), {}),
    "split": (
        helper.make_node("Split", ["x"], ["y", "z"], name="a/Split", axis=2, num_outputs=2),
        {},
    ),
    "reshape": (node("Reshape", ["x", "shape"], allowzero=1), {"shape": np.array([-1, 42, 8])}),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_newer_operators_compute_the_same(name, tmp_path):
    each, constants = CASES[name]
    path = save(tmp_path, [each], [X], constants, outputs=each.output)
    found, nodes = lowered(path, tmp_path / "lowered")
    x = np.random.default_rng(1).standard_normal((2, 6, 7, 8)).astype(np.float32)
    assert {each.name.partition("/")[0] for each in nodes} <= {"block.part", "a"}
    for got, wanted in zip(run(found, {"x": x}), run(path, {"x": x}), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_reduction_keeps_its_axes_where_the_parser_looks(tmp_path):
    each, constants = CASES["mean"]
    _, nodes = lowered(save(tmp_path, [each], [X], constants), tmp_path / "lowered")
    (reduction,) = nodes
    assert len(reduction.input) == 1
    assert {entry.name: helper.get_attribute_value(entry) for entry in reduction.attribute}["axes"] == [1, -1]


def test_output_dtype_becomes_a_zero_point(tmp_path):
    constants = {"scale": np.float32(0.1)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], name="fc/Q", output_dtype=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], name="fc/DQ"),
    ]
    path = save(tmp_path, nodes, [X], constants)
    found, after = lowered(path, tmp_path / "lowered")
    assert Counter(len(each.input) for each in after) == {3: 2}
    x = np.random.default_rng(1).standard_normal((2, 6, 7, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(found, {"x": x})[0], run(path, {"x": x})[0])


Q, DQ = "QuantizeLinear", "DequantizeLinear"
REFUSED = {
    "operator": ([node("Hardmax", ["x"])], {}, "its parser has no such operator"),
    "bf16": ([node("Cast", ["x"], to=TensorProto.BFLOAT16)], {}, "BFLOAT16"),
    "fp8": (
        [node(Q, ["x", "s", "z"])],
        {"s": np.float32(1), "z": np.zeros((), helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN))},
        "FLOAT8E4M3FN",
    ),
    "uint8": ([node(Q, ["x", "s", "z"])], {"s": np.float32(1), "z": np.uint8(0)}, "zero point of INT8"),
    "asymmetric": ([node(Q, ["x", "s", "z"])], {"s": np.float32(1), "z": np.int8(3)}, "symmetrically"),
    "blocks": (
        [node(DQ, ["w", "s"], block_size=2)],
        {"w": np.zeros((4, 4), np.int8), "s": np.ones((2, 4), np.float32)},
        "no scales for blocks",
    ),
    "int32": (
        [node(DQ, ["w", "s"])],
        {"w": np.zeros(4, np.int32), "s": np.float32(1)},
        "leave biases in floats",
    ),
    "channels": (
        [node(Q, ["x", "s", "z"], axis=1)],
        {"s": np.ones(6, np.float32), "z": np.zeros(6, np.int8)},
        "a scale for each channel of an activation",
    ),
    "scatter": (
        [node("ScatterND", ["x", "i", "u"], reduction="max")],
        {"i": np.zeros((1, 1), np.int64), "u": np.zeros((1, 6, 7, 8), np.float32)},
        "reduction 'max' would be ignored",
    ),
    "large": (
        [node("Reshape", ["x", "shape"]), helper.make_node("Add", ["big", "big"], ["z"], name="Add")],
        {"shape": np.array([-1]), "big": np.array([2**40])},
        "beyond 32 bits",
    ),
    "wrap": ([node("Pad", ["x", "p"], mode="wrap")], {"p": np.ones(8, np.int64)}, "wrapping around"),
    "dilated": ([node("AveragePool", ["x"], kernel_shape=[2, 2], dilations=[2, 2])], {}, "does not dilate"),
    "antialias": ([node("Resize", ["x", "", "f"], mode="linear", antialias=1)], {"f": np.ones(4, np.float32)}, "anti"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_it_cannot_take_is_named(name, tmp_path):
    nodes, constants, reason = REFUSED[name]
    model = document.load(save(tmp_path, nodes, [X], constants))
    with pytest.raises(ModelError) as caught:
        tensorrt86.lower(model)
    message = caught.value.message
    assert reason in message
    assert f"operator {nodes[-1].op_type}" in message
    assert nodes[-1].name in message
    if name != "large":
        assert "block.part" in message.split("node")[0]


def test_half_precision_scales_are_refused(tmp_path):
    constants = {"s": np.float16(1), "z": np.int8(0)}
    path = save(tmp_path, [node(Q, ["x", "s", "z"])], [("x", TensorProto.FLOAT16, ["n", 6])], constants)
    with pytest.raises(ModelError, match="quantize the graph in float32"):
        tensorrt86.lower(document.load(path))


def test_a_plugin_that_is_loaded_is_taken(tmp_path):
    nodes = [helper.make_node("MyPlugin", ["x"], ["h"], name="a/MyPlugin", domain="trt"), node("Relu", ["h"])]
    path = save(tmp_path, nodes, [X])
    with pytest.raises(ModelError, match="no plugin for it is loaded"):
        tensorrt86.lower(document.load(path))
    tensorrt86.lower(document.load(path), plugins=["MyPlugin"])
