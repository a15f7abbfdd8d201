"""ONNX sources through modelopt.onnx: numbers against NumPy, traps closed, accuracy on a network that has learned."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("modelopt")

from tests import vision
from tests.unit.graph import conftest
from tests.unit.graph.examples import activations, linears, make_plan, run, run_model, sample
from tests.unit.graph.reference import relative
from trtbuild.backends.modelopt_onnx import silence
from trtbuild.backends.modelopt_onnx.calibrator import ModelOptOnnx
from trtbuild.core.artifacts import OnnxModel, Samples
from trtbuild.core.dialects import ONNX_RUNTIME
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.quantization import Plan
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import write_batches
from trtbuild.graph import document, insertion
from trtbuild.stages.calibrate import CalibrateOptions
from trtbuild.stages.calibrate_onnx import calibrate_onnx

exported = conftest.exported

CONVOLUTIONS = {"stem", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2", "block2.shortcut"}


def calibrated(model: OnnxModel, batches, folder: Path, form: str, **options) -> Plan:
    """What the stage makes of the batches."""
    folder.mkdir(parents=True, exist_ok=True)
    work, samples = Path(tempfile.mkdtemp(dir=folder)), Samples(Path(tempfile.mkdtemp(dir=folder)))
    write_batches(samples.main, batches)
    settings = CalibrateOptions(format=form, **options)
    return Plan.read(calibrate_onnx(model, samples, settings, ModelOptOnnx(), Workspace(work)))


def images(*counts):
    return [{"image": vision.gratings(count, seed=100 + count)[0]} for count in counts]


def scores(path: Path, pictures):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options).run(None, {"image": pictures})[0]


def inserted(model: OnnxModel, plan: Plan, folder: Path, **options):
    graph = document.load(model.main)
    coverage = insertion.insert(graph, plan, dialect=ONNX_RUNTIME, **options)
    folder.mkdir()
    document.save(graph, OnnxModel(folder))
    return coverage, OnnxModel(folder)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return vision.export(tmp_path_factory.mktemp("vision"))


@pytest.fixture
def transformer(exported):
    """The BERT-like model and its samples, in two batches that no axis but the last has in common."""
    x = sample("postnorm")
    path = exported("postnorm")
    return OnnxModel(path.parent), x, [{"x": x[:9]}, {"x": x[9:, :3]}]


@pytest.fixture(scope="module")
def truth(network):
    pictures, labels = vision.gratings(512, seed=7)
    answers = scores(network.main, pictures).argmax(1)
    assert 0.8 < (answers == labels).mean() < 0.98  # it has learned, and leaves room to get worse
    return pictures, answers


@pytest.mark.parametrize(
    ("form", "options", "kept"),
    [("int8", {}, set()), ("int8", {"method": "entropy"}, set()), ("int8_sq", {"alpha": 0.5}, set()),
     ("fp8", {}, {"stem"}), ("fp8_pc_pt", {}, {"stem"}), ("w8a16", {}, set())],
)  # fmt: skip
def test_a_convolutional_network_keeps_its_answers(network, truth, tmp_path, form, options, kept):
    plan = calibrated(network, images(8, 5, 16, 32), tmp_path, form, **options)
    assert plan.modules.keys() == {*CONVOLUTIONS, "head"} - kept
    assert plan.kept_high.keys() == kept
    coverage, quantized = inserted(network, plan, tmp_path / "quantized", include=sorted(plan.modules))
    assert coverage.inserted == coverage.asked == len(plan.modules)
    assert (scores(quantized.main, truth[0]).argmax(1) == truth[1]).mean() >= 0.97


def test_wrong_ranges_would_show_in_the_answers(network, truth, tmp_path):
    plan = calibrated(network, images(8, 5, 16, 32), tmp_path, "int8")
    narrow = {module: replace(numbers, input_amax=numbers.input_amax / 8) for module, numbers in plan.modules.items()}
    _, quantized = inserted(network, replace(plan, modules=narrow), tmp_path / "quantized")
    assert (scores(quantized.main, truth[0]).argmax(1) == truth[1]).mean() < 0.9


def test_ranges_of_a_network_are_the_greatest_magnitudes_over_all_batches(network, tmp_path):
    batches = images(5, 1, 9)
    plan = calibrated(network, batches, tmp_path, "int8")
    assert plan.samples == 15
    assert plan.classes == {**dict.fromkeys(CONVOLUTIONS, "Conv"), "head": "Gemm"}
    everything = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_allclose(plan.modules["stem"].input_amax, np.abs(everything).max(), rtol=1e-6)
    weights = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(network.main).graph.initializer}
    for node in onnx.load(network.main).graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = weights[node.input[1]]
            found = plan.modules[node.name.rpartition("/")[0]].weight_amax
            np.testing.assert_allclose(found, np.abs(weight).reshape(len(weight), -1).max(1), rtol=1e-6)


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_batches_of_one_quantize_the_gemm_as_well(network, tmp_path, form):
    """ModelOpt would take it for a matrix-vector product by the length of the first batch, and leave it alone."""
    plan = calibrated(network, images(1, 1, 1), tmp_path, form)
    assert "head" in plan.modules


def test_modelopt_says_and_leaves_nothing_and_the_model_stays_as_it_was(network, tmp_path, capfd, monkeypatch):
    public = tmp_path / "public"
    public.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(public))
    before = hashlib.sha256(network.main.read_bytes()).hexdigest()
    for form in ("int8", "fp8", "int4_awq"):
        calibrated(network, images(2), tmp_path / form, form, block_size=32)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert not list(public.iterdir())
    assert hashlib.sha256(network.main.read_bytes()).hexdigest() == before
    assert [file.name for file in network.path.iterdir()] == ["model.onnx"]
    assert tempfile.tempdir == str(public)


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_a_transformers_numbers_are_those_of_numpy(transformer, tmp_path, form):
    model, x, _ = transformer
    plan, wanted = calibrated(model, [{"x": x[:9]}, {"x": x[9:]}], tmp_path, form), make_plan(model.main, x, form)
    assert plan.modules.keys() == wanted.modules.keys()
    for module, numbers in plan.modules.items():
        np.testing.assert_allclose(numbers.input_amax, wanted.modules[module].input_amax, rtol=1e-5)
        np.testing.assert_allclose(numbers.weight_amax, wanted.modules[module].weight_amax, rtol=1e-5)
        assert (numbers.format, numbers.input_amax.shape) == (form, ())


def test_smoothquant_follows_the_paper_and_shares_scales(transformer, tmp_path):
    model, x, _ = transformer
    plan = calibrated(model, [{"x": x[:9]}, {"x": x[9:]}], tmp_path, "int8_sq", alpha=0.5)
    tensors, weights = activations(model.main, x), linears(model.main)
    group = ["attention.query", "attention.key", "attention.value"]
    stacked = np.concatenate([weights[module][1] for module in group])
    channel = np.abs(tensors[weights[group[0]][0]]).reshape(-1, x.shape[-1]).max(0)
    scale = np.sqrt(np.abs(stacked).max(0) / channel)
    for module in group:
        numbers = plan.modules[module]
        np.testing.assert_allclose(numbers.pre_quant_scale, scale, rtol=1e-5)
        np.testing.assert_allclose(numbers.input_channel_amax, channel, rtol=1e-5)
        np.testing.assert_allclose(numbers.input_amax, (channel * scale).max(), rtol=1e-5)
        np.testing.assert_allclose(numbers.weight_amax, np.abs(weights[module][1] / scale).max(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "tolerance"), [("int8", 0.01), ("int8_sq", 0.01), ("fp8", 0.03), ("int4", 0.06), ("int4_awq", 0.06)]
)
def test_a_transformer_is_covered_and_close(transformer, tmp_path, form, tolerance):
    model, x, ragged = transformer
    plan = calibrated(model, ragged, tmp_path, form, alpha=0.5, block_size=32)
    graph = document.load(model.main)
    coverage = insertion.insert(graph, plan, attention="high", dialect=ONNX_RUNTIME)
    assert coverage.asked == coverage.inserted == len(linears(model.main))
    assert not coverage.smoothing_left
    error = relative(run_model(graph, x, tmp_path / "q"), run(model.main, x)[0])
    assert 1e-4 < error < tolerance


def test_awq_loses_less_than_rounding_where_channels_differ(tmp_path, exported):
    x = sample("mlp") * np.where(np.arange(32) % 8, 0.1, 8).astype(np.float32)
    model = OnnxModel(exported("mlp").parent)
    wanted = run(model.main, x)[0]
    errors = {}
    for form in ("int4", "int4_awq"):
        plan = calibrated(model, [{"x": x}], tmp_path, form, block_size=32)
        graph = document.load(model.main)
        insertion.insert(graph, plan, dialect=ONNX_RUNTIME)
        errors[form] = relative(run_model(graph, x, tmp_path / form), wanted)
    assert errors["int4_awq"] < 0.9 * errors["int4"]


def test_int4_blocks_of_a_transposed_gemm_run_along_its_inputs(tmp_path, exported):
    model, x = OnnxModel(exported("mlp").parent), sample("mlp")
    weights = linears(model.main)
    assert {node.op_type for node in onnx.load(model.main).graph.node} >= {"Gemm"}
    plan = calibrated(model, [], tmp_path, "int4", block_size=16)
    for module, numbers in plan.modules.items():
        weight = weights[module][1]
        wanted = np.abs(weight).reshape(len(weight), -1, 16).max(2)
        np.testing.assert_allclose(numbers.weight_amax, wanted, rtol=1e-5)
        assert numbers.block_size == 16
    clipped = calibrated(model, [{"x": x[:7]}, {"x": x[7:]}], tmp_path, "int4_awq", block_size=16)
    assert {module: numbers.weight_amax.shape for module, numbers in clipped.modules.items()} == {
        "a": (64, 2),
        "b": (8, 4),
    }


def test_int4_compiles_nothing_and_packs_what_it_rounded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cppimport", None)
    monkeypatch.delitem(sys.modules, silence.EXTENSIONS, raising=False)
    model = chain(tmp_path / "m", [(64, 24)])
    copy = OnnxModel(tmp_path / "copy")
    copy.path.mkdir()
    shutil.copy(model.main, copy.main)
    quantized = silence.run(copy, [], copy.path, mode="int4", method="rtn_dq", block_size=32)
    assert silence.EXTENSIONS not in sys.modules
    stored = {entry.data_type: numpy_helper.to_array(entry) for entry in onnx.load(quantized).graph.initializer}
    weight = linears(model.main)["fc0"][1].T
    scale = np.repeat(np.abs(weight).reshape(2, 32, 24).max(1) / 7, 32, axis=0)
    np.testing.assert_array_equal(stored[TensorProto.INT4].astype(np.int8), np.rint(weight / scale))


def test_blocks_that_do_not_divide_stay_high_with_the_reason(tmp_path):
    model = chain(tmp_path / "m", [(96, 40), (40, 8)])
    plan = calibrated(model, [], tmp_path, "int4", block_size=32)
    assert plan.modules.keys() == {"fc0"}
    assert plan.kept_high == {"fc1": "its 40 inputs do not divide into blocks of 32"}


def test_fp8_tiles_share_the_greatest_of_128_by_128(tmp_path):
    model = chain(tmp_path / "m", [(256, 192)])
    found = calibrated(model, [], tmp_path, "fp8_block128").modules["fc0"]
    weight = linears(model.main)["fc0"][1]
    tiles = [[np.abs(weight[i : i + 128, j : j + 128]).max() for j in (0, 128)] for i in (0, 128)]
    np.testing.assert_array_equal(found.weight_amax, np.repeat(np.array(tiles, np.float32), 128, axis=0)[:192])
    assert found.block_size == 128


def test_large_weights_beside_the_model_and_an_old_opset(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "INLINE_LIMIT_BYTES", 1000)
    model = chain(tmp_path / "m", [(64, 64), (64, 16)], opset=13)
    assert (model.path / "model.onnx.data").is_file()
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    for form in ("int8", "int8_sq", "int4_awq"):
        plan = calibrated(model, [{"x": x}], tmp_path, form, block_size=32)
        assert plan.modules.keys() == {"fc0", "fc1"}
    assert model.main.read_bytes() == chain(tmp_path / "again", [(64, 64), (64, 16)], opset=13).main.read_bytes()


def test_dead_channels_do_not_widen_the_scale_of_a_tensor(tmp_path):
    model = chain(tmp_path / "m", [(32, 24)], dead=True)
    x = np.random.default_rng(0).standard_normal((9, 32)).astype(np.float32)
    plan = calibrated(model, [{"x": x}], tmp_path, "fp8")
    np.testing.assert_allclose(plan.modules["fc0"].weight_amax, np.abs(linears(model.main)["fc0"][1]).max(), rtol=1e-6)


def test_an_input_of_zeros_has_no_range(tmp_path):
    model = chain(tmp_path / "m", [(32, 24)])
    with pytest.raises(DataError, match="its input was zero in every calibration sample"):
        calibrated(model, [{"x": np.zeros((2, 32), np.float32)}], tmp_path, "int8")


@pytest.mark.parametrize("form", ["int8", "fp8", "int8_sq", "int4_awq"])
def test_without_samples_nothing_is_made_up(network, tmp_path, form):
    with pytest.raises(DataError, match="needs calibration samples"):
        calibrated(network, [], tmp_path, form)
    with pytest.raises(DataError, match="needs calibration samples"):
        ModelOptOnnx().calibrate(network, CalibrateOptions(format=form), [], tmp_path, None)


@pytest.mark.parametrize("form", ["int8", "int8_sq", "fp8"])
def test_samples_that_are_not_finite_are_named(tmp_path, form):
    model = chain(tmp_path / "m", [(32, 24)])
    x = np.ones((2, 32), np.float32)
    x[0, 3] = np.nan
    with pytest.raises(DataError, match="input of fc0/MatMul holds NaN"):
        calibrated(model, [{"x": x}], tmp_path, form)


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = chain(tmp_path / "m", [(32, 24)], poison=True)
    with pytest.raises(DataError, match="weight of fc0 holds NaN"):
        calibrated(model, [], tmp_path, "w8a16")


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [("int8", {"method": "percentile"}, "method percentile is not there for ONNX sources\n.*max and entropy"),
     ("int8_sq", {"method": "mse"}, "method mse"), ("fp8", {"method": "entropy"}, "entropy is for INT8"),
     ("int4_gptq", {}, "GPTQ.*\n.*PyTorch"),
     ("w4a8_awq", {}, "not there for ONNX"), ("nvfp4", {}, "FP4"), ("mxfp8", {}, "MXFP8")],
)  # fmt: skip
def test_what_onnx_sources_cannot_have_is_refused_with_a_reason(network, tmp_path, form, options, message):
    with pytest.raises(ModelError, match=message):
        calibrated(network, images(2), tmp_path, form, **options)


def test_a_quantized_graph_is_refused_and_described(network, tmp_path):
    plan = calibrated(network, images(4), tmp_path, "int8")
    _, quantized = inserted(network, plan, tmp_path / "q", include=["stem"])
    with pytest.raises(ModelError, match="already quantized: 7 modules int8"):
        calibrated(quantized, images(4), tmp_path, "int8")


def test_convolutions_that_modelopt_leaves_alone_say_why(tmp_path):
    model = convolutions(tmp_path / "m")
    x = np.random.default_rng(0).standard_normal((2, 24, 8, 8)).astype(np.float32)
    plan = calibrated(model, [{"x": x, "kernel": np.ones((24, 24, 1, 1), np.float32)}], tmp_path, "int8")
    assert plan.modules.keys() == {"wide"}
    assert plan.kept_high == {
        "narrow": "ModelOpt leaves int8 convolutions of 6 to 6 channels alone",
        "computed": "its weight is not a constant",
    }


def test_a_module_called_twice_gets_the_range_of_both_calls(tmp_path):
    model = chain(tmp_path / "m", [(32, 32), (32, 32)], shared=True)
    x = np.random.default_rng(0).standard_normal((9, 32)).astype(np.float32)
    weight = next(iter(linears(model.main).values()))[1]
    hidden = np.maximum(x @ weight.T, 0)
    plan = calibrated(model, [{"x": x}], tmp_path, "int8")
    np.testing.assert_allclose(plan.modules["fc0"].input_amax, max(np.abs(x).max(), hidden.max()), rtol=1e-5)
    assert calibrated(model, [{"x": x}], tmp_path, "int4_awq", block_size=32).modules["fc0"].pre_quant_scale is None


def chain(folder: Path, sizes, *, opset=21, dead=False, poison=False, shared=False) -> OnnxModel:
    """MatMul and ReLU for each [in, out]; with a column of zeros, or a NaN, or one module that is called each time."""
    rng, nodes, weights, value = np.random.default_rng(3), [], [], "x"
    for index, size in enumerate(sizes):
        weight = (0.2 * rng.standard_normal(size)).astype(np.float32)
        weight[:, 0] = 0 if dead else weight[:, 0]
        weight[0, 0] = np.nan if poison else weight[0, 0]
        name = "fc0" if shared else f"fc{index}"
        if not (shared and index):
            weights.append(numpy_helper.from_array(weight, f"{name}.weight"))
        suffix = f"_{index}" if shared and index else ""
        nodes.append(
            helper.make_node("MatMul", [value, f"{name}.weight"], [f"m{index}"], name=f"{name}/MatMul{suffix}")
        )
        nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"], name=f"fc{index}/Relu"))
        value = f"r{index}"
    floats = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [floats("x", TensorProto.FLOAT, ["batch", sizes[0][0]])],
        [floats(value, TensorProto.FLOAT, ["batch", sizes[-1][1]])],
        weights,
    )
    return adopted(graph, folder, opset)


def convolutions(folder: Path) -> OnnxModel:
    """One of 24 channels, one of 6, one whose kernel is fed by the caller."""
    rng = np.random.default_rng(3)
    weights = {"wide": (24, 24, 3, 3), "narrow": (6, 6, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["a"], name="computed/Conv"),
        helper.make_node("Conv", ["a", "wide.weight"], ["b"], name="wide/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Slice", ["b", "zero", "six", "one"], ["c"], name="Slice"),
        helper.make_node("Conv", ["c", "narrow.weight"], ["y"], name="narrow/Conv", pads=[1, 1, 1, 1]),
    ]
    constants = [
        numpy_helper.from_array((0.1 * rng.standard_normal(shape)).astype(np.float32), f"{name}.weight")
        for name, shape in weights.items()
    ]
    constants += [
        numpy_helper.from_array(np.array([number], np.int64), name)
        for name, number in (("zero", 0), ("six", 6), ("one", 1))
    ]
    floats = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [
            floats("x", TensorProto.FLOAT, ["batch", 24, 8, 8]),
            floats("kernel", TensorProto.FLOAT, [24, 24, 1, 1]),
        ],
        [floats("y", TensorProto.FLOAT, ["batch", 6, 8, 8])],
        constants,
    )
    return adopted(graph, folder, 21)


def adopted(graph: onnx.GraphProto, folder: Path, opset: int) -> OnnxModel:
    folder.mkdir(parents=True)
    raw = folder / "raw.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), raw)
    model = document.load(raw)
    raw.unlink()
    document.save(model, OnnxModel(folder))
    return OnnxModel(folder)
