"""NVFP4 and MXFP8 in the graph: the nodes that TensorRT imports, ModelOpt's own bytes, and numbers checked on a CPU."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from tests.unit.graph.examples import make_plan, run, sample
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.graph import document, insertion, reading
from trtbuild.graph.block_scales import codes
from trtbuild.graph.block_scales.in_floats import compute_blocks_in_floats
from trtbuild.graph.block_scales.operators import DOMAIN, MXFP8_QUANTIZE
from trtbuild.graph.float_rounding import E2M1, E4M3, Steps
from trtbuild.graph.initializers import constant
from trtbuild.graph.lint import lint

torch = pytest.importorskip("torch")
pytest.importorskip("modelopt.torch.quantization")

from modelopt.onnx.export import nvfp4_exporter  # noqa: E402 - it needs ModelOpt
from modelopt.onnx.quantization import qdq_utils, quant_utils  # noqa: E402
from modelopt.torch.quantization.qtensor import MXFP8QTensor, NVFP4QTensor  # noqa: E402

FORMS = ("nvfp4", "mxfp8")
QUANTIZERS = {"nvfp4": "TRT_FP4DynamicQuantize", "mxfp8": "TRT_MXFP8DynamicQuantize"}


def inserted(exported, name, form, plan=None, half=False):
    path = exported(name)
    model = document.load(path)
    plan = plan or make_plan(path, sample(name), form)
    if half:
        make_half(model)
    coverage = insertion.insert(model, plan)
    assert (coverage.inserted, coverage.asked) == (len(plan.modules),) * 2, coverage.layers
    return model, plan


def make_half(model):
    for value in [*model.graph.inputs, *(out for node in model.graph for out in node.outputs)]:
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT16)


def saved(model, folder):
    folder.mkdir(exist_ok=True)
    document.save(model, OnnxModel(folder))
    proto = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


def nodes(model, op_type):
    return [node for node in model.graph if node.op_type == op_type]


def weight(rng, shape=(24, 64)):
    matrix = rng.standard_normal(shape).astype(np.float32) * np.float32(0.05)
    matrix[3] = 0  # a dead channel
    matrix[5, :16] = 0  # and a dead block
    matrix[7] *= 1e-7  # blocks whose scale no E4M3 number reaches
    return matrix


def block_amax(matrix, size):
    return np.abs(matrix).reshape(len(matrix), -1, size).max(2)


def test_nvfp4_weights_are_the_bytes_of_modelopts_exporter():
    matrix = weight(np.random.default_rng(0))
    found = codes.nvfp4(matrix, block_amax(matrix, 16))
    scale = quant_utils.get_weights_scaling_factor_2(matrix)
    exact = quant_utils.get_weights_scaling_factor(matrix, 16, scale)
    rounded, scales = nvfp4_exporter._encode_nvfp4_block_scale(exact)
    packed = nvfp4_exporter._cast_fp4(quant_utils.quantize(matrix, 16, rounded, scale).copy())
    assert found.scale == scale
    assert found.scales.view(np.uint8).tobytes() == scales.tobytes()
    stored = ir.serde.serialize_tensor(ir.tensor(found.codes, name="w"))
    assert stored.raw_data == packed.tobytes()
    assert len(stored.raw_data) == matrix.size // 2


def test_mxfp8_weights_are_the_bytes_of_modelopts_exporter():
    matrix = weight(np.random.default_rng(0))
    matrix[9, 32:] = 448 * 2.0**-5  # where a logarithm must be exact
    amax = block_amax(matrix, 32)
    found = codes.mxfp8(matrix, amax)
    with np.errstate(divide="ignore"):
        wanted = quant_utils.compute_e8m0(amax, matrix.shape, -1, 32).astype(np.uint8)
    assert np.array_equal(found.exponents, wanted)
    assert np.array_equal(found.exponents, MXFP8QTensor.get_weights_scaling_factor(torch.from_numpy(matrix)).numpy())
    scaled = matrix / np.exp2(np.repeat(wanted.astype(np.float32), 32, axis=1) - 127)
    assert found.codes.view(np.uint8).tobytes() == qdq_utils._cast_fp8(scaled).tobytes()


def test_a_scale_is_the_least_power_of_two_that_reaches():
    amax = np.float32(448) * np.exp2(np.arange(-100, 100, dtype=np.float32))
    around = np.stack([np.nextafter(amax, np.float32(0)), amax, np.nextafter(amax, np.float32(np.inf))])
    assert np.array_equal(codes.exponents_of(around), np.stack([np.arange(-100, 100)] * 2 + [np.arange(-99, 101)]))


@pytest.mark.parametrize("half", [False, True])
def test_nvfp4_is_spelled_as_tensorrt_imports_it(exported, tmp_path, half):
    model, plan = inserted(exported, "postnorm", "nvfp4", half=half)
    assert model.opset_imports[""] == 23
    float_type = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
    quantizers = nodes(model, "TRT_FP4DynamicQuantize")
    assert [node.name.rpartition("/")[0] for node in quantizers] == [
        "attention.query", "attention.out", "up", "down",
    ], "query, key and value read one tensor"  # fmt: skip
    for node in quantizers:
        assert node.domain == DOMAIN
        assert {name: entry.value for name, entry in node.attributes.items()} == {
            "axis": -1, "block_size": 16, "scale_type": 17,
        }  # fmt: skip
        scale = constant(node.inputs[1])
        assert (scale.dtype, scale.shape.rank()) == (ir.DataType.FLOAT, 0), "an initializer, whatever the graph's type"
        assert [value.dtype for value in node.outputs] == [ir.DataType.FLOAT4E2M1, ir.DataType.FLOAT8E4M3FN]
        (of_scales,) = [usage.node for usage in node.outputs[1].uses()]
        assert of_scales.op_type == "DequantizeLinear"
        assert of_scales.inputs[1] is node.inputs[1]
        for reader in (usage.node for usage in node.outputs[0].uses()):
            assert reader.op_type == "DequantizeLinear"
            assert reader.inputs[1] is of_scales.outputs[0]
            assert (reader.attributes["axis"].value, reader.attributes["block_size"].value) == (-1, 16)
    amax = max(float(plan.modules[f"attention.{role}"].input_amax) for role in ("query", "key", "value"))
    assert constant(quantizers[0].inputs[1]).numpy() == np.float32(amax) / np.float32(6 * 448)
    for node in nodes(model, "MatMul"):
        if node.name.rpartition("/")[0] in plan.modules:
            assert {value.dtype for value in node.inputs} == {float_type}
            of_input, of_weight = (value.producer().op_type for value in node.inputs)
            assert (of_input, of_weight) == (("Cast", "Cast") if half else ("DequantizeLinear", "Transpose"))
    inferred = saved(model, tmp_path / "graph")
    shapes = {value.name: value for value in inferred.graph.value_info}
    stored = shapes["up/TRT_FP4DynamicQuantize:1"].type.tensor_type
    assert stored.elem_type == onnx.TensorProto.FLOAT8E4M3FN
    assert stored.shape.dim[2].dim_value == 32 // 16


@pytest.mark.parametrize("half", [False, True])
def test_mxfp8_is_spelled_as_tensorrt_imports_it(exported, tmp_path, half):
    model, plan = inserted(exported, "postnorm", "mxfp8", half=half)
    float_type = ir.DataType.FLOAT16 if half else ir.DataType.FLOAT
    dequantizers = nodes(model, "TRT_MXFP8DequantizeLinear")
    assert len(dequantizers) == 2 * len(plan.modules), "one for each weight, one for each reader of an input"
    assert not nodes(model, "DequantizeLinear")
    for node in dequantizers:
        assert {name: entry.value for name, entry in node.attributes.items()} == {
            "axis": -1, "block_size": 32, "output_dtype": int(float_type),
        }  # fmt: skip
        assert node.inputs[0].dtype == ir.DataType.FLOAT8E4M3FN
        assert node.inputs[1].dtype == ir.DataType.UINT8, "TensorRT reads UINT8 scales as E8M0"
    for node in nodes(model, "TRT_MXFP8DynamicQuantize"):
        assert {name: entry.value for name, entry in node.attributes.items()} == {
            "axis": -1, "block_size": 32, "output_dtype": 17,
        }  # fmt: skip
    saved(model, tmp_path / "graph")


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_stored_quantized_and_no_float_copy_stays(exported, form):
    path = exported("postnorm")
    model, plan = inserted(exported, "postnorm", form)
    before = {module: numbers.weight_amax for module, numbers in plan.modules.items()}
    floats = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT)
    biases = sum(
        value.const_value.nbytes
        for value in document.load(path).graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT and len(value.shape) < 2
    )
    assert floats <= biases + 4 * 3 * len(before), "scales of tensors, and what was no weight"
    size = {"nvfp4": 1 / 2, "mxfp8": 1}[form]
    for module in plan.modules:
        stored = model.graph.initializers[f"{module}.weight_codes"].const_value
        assert stored.nbytes == stored.size * size


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["postnorm", "mlp", "gelu"])
def test_the_bodies_give_what_the_steps_in_floats_give(exported, tmp_path, name, form):
    """ONNX's reference runs the bodies, ONNX Runtime the steps: two programs, one graph."""
    model, _ = inserted(exported, name, form)
    proto, x = saved(model, tmp_path / "graph"), sample(name)
    lowered = document.load(tmp_path / "graph" / "model.onnx")
    weights, inputs = len(nodes(lowered, "MatMul") + nodes(lowered, "Gemm")), len(nodes(lowered, QUANTIZERS[form]))
    weights -= 2 * (name == "postnorm")  # the attention's own products
    assert compute_blocks_in_floats(lowered) == weights + inputs
    assert {node.domain for node in lowered.graph} == {""}
    assert not lowered.functions
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    saved(lowered, tmp_path / "lowered")
    (got,) = run(tmp_path / "lowered" / "model.onnx", x)
    assert relative(got, wanted) < 2e-6


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_of_16_bit_floats_runs_too(exported, tmp_path, form):
    answers = []
    for half in (False, True):
        model, _ = inserted(exported, "gelu", form, half=half)
        compute_blocks_in_floats(model)
        saved(model, folder := tmp_path / str(half))
        x = sample("gelu").astype(np.float16 if half else np.float32)
        answers += run(folder / "model.onnx", x)
    assert answers[1].dtype == np.float16
    assert relative(answers[1], answers[0]) < 0.05, "a number now and then rounds the other way"


def relative(got, wanted):
    return float(np.linalg.norm(got.astype(np.float64) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["mlp", "gelu", "postnorm"])
def test_the_graph_answers_as_a_module_of_modelopts_quantized_tensors(exported, tmp_path, name, form):
    """ModelOpt's fake quantizers of these formats need CUDA; its quantized tensors hold the same numbers anywhere."""
    from tests.unit.graph.examples import MODELS

    model, plan = inserted(exported, name, form)
    compute_blocks_in_floats(model)
    saved(model, tmp_path / "graph")
    (got,) = run(tmp_path / "graph" / "model.onnx", sample(name))
    torch.manual_seed(0)
    module = MODELS[name]().eval()
    with torch.no_grad():
        plain = module(torch.from_numpy(sample(name))).numpy()
        for path, numbers in plan.modules.items():
            layer = module.get_submodule(path)
            layer.weight.data = fake(layer.weight.data, form)
            amax = shared_amax(plan, path, numbers)
            layer.register_forward_pre_hook(lambda _, args, amax=amax: fake(args[0], form, amax))
        wanted = module(torch.from_numpy(sample(name))).numpy()
    assert relative(got, wanted) <= 1e-4
    assert relative(wanted, plain) > 0.01, "quantization must show"


def shared_amax(plan, path, numbers):
    if not path.startswith("attention.") or path == "attention.out":
        return numbers.input_amax
    return max(plan.modules[f"attention.{role}"].input_amax for role in ("query", "key", "value"))


def fake(x, form, amax=None):
    """Through ModelOpt's quantized tensor and back."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    if form == "mxfp8":
        exponents = MXFP8QTensor.get_weights_scaling_factor(flat)
        stored = MXFP8QTensor.quantize_with_scale(flat, exponents)
        return (stored.float() * torch.exp2(exponents.float() - 127).repeat_interleave(32, dim=1)).reshape(x.shape)
    scale = NVFP4QTensor.get_weights_scaling_factor_2(flat) if amax is None else torch.tensor(amax) / (6 * 448)
    stored, scales, double = NVFP4QTensor.quantize(flat.clone(), 16, weights_scaling_factor_2=scale)
    said = stored.dequantize(dtype=torch.float32, scale=scales, double_scale=double, block_sizes={-1: 16})
    return said.reshape(x.shape)


@pytest.mark.parametrize(("grid", "stored"), [(E2M1, ml_dtypes.float4_e2m1fn), (E4M3, ml_dtypes.float8_e4m3fn)])
def test_float_steps_round_as_the_type_does(tmp_path, grid, stored):
    """Every number of the type, every tie between two, and their neighbours."""
    said = np.arange(256, dtype=np.uint8)[: 16 if stored is ml_dtypes.float4_e2m1fn else 256].view(stored)
    said = np.unique(said.astype(np.float32)[np.isfinite(said.astype(np.float32))])
    ties = (said[1:] + said[:-1]) / 2
    beside = [np.nextafter(ties, np.float32(far)) for far in (9e9, -9e9)]
    x = np.concatenate([said, ties, *beside, [900, -900]]).astype(np.float32)
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([len(x)]))
    end = ir.node("Identity", [value], name="end")
    graph = ir.Graph([value], [], nodes=[end], opset_imports={"": 21}, name="g")
    rounded = Steps(graph, end, grid).codes(value)
    graph.outputs.append(rounded)
    model = ir.Model(graph, ir_version=10)
    (got,) = run(ir.to_proto(model), x)
    greatest = said.max()
    assert np.array_equal(got, np.clip(x, -greatest, greatest).astype(stored).astype(np.float32))


def test_the_scale_of_an_mxfp8_input_is_exact_at_powers_of_two():
    function = MXFP8_QUANTIZE.function(21)
    amax = np.float32(448) * np.exp2(np.arange(-100, 100, dtype=np.float32))
    x = np.concatenate([amax, np.nextafter(amax, np.float32(0)), np.nextafter(amax, np.float32(np.inf))])
    (_, scales) = ReferenceEvaluator(function).run(
        None, {"x": np.repeat(x[:, None], 32, axis=1)}, attributes={"axis": -1, "block_size": 32, "output_dtype": 17}
    )
    assert np.array_equal(scales[:, 0], codes.exponents_of(x) + 127)


@pytest.mark.parametrize("form", FORMS)
def test_the_lint_has_nothing_against_the_graph(exported, form):
    model, _ = inserted(exported, "postnorm", form, half=True)
    assert lint(model) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_graph_is_not_quantized_again(exported, form):
    model, plan = inserted(exported, "mlp", form)
    assert reading.is_quantized(model)
    with pytest.raises(ModelError, match="already quantized"):
        insertion.insert(model, plan)


def test_an_opset_below_21_cannot_be_raised_to_fp4(exported):
    model = document.load(path := exported("mlp"))
    model.opset_imports[""] = 19
    with pytest.raises(ModelError, match="opset 21"):
        insertion.insert(model, make_plan(path, sample("mlp"), "nvfp4"))


def test_what_tensorrt_cannot_scale_in_blocks_stays_high_with_the_reason(exported):
    path = exported("postnorm")
    model, plan = document.load(path), make_plan(path, sample("postnorm"), "nvfp4")
    product = next(node for node in model.graph if node.name == "up/MatMul")
    product.inputs[0].shape = ir.Shape([1, 2, 3, 32])
    foreign = replace(plan.modules["down"], weight_amax=np.ones((32, 2), np.float32), block_size=32)
    coverage = insertion.insert(model, Plan(plan.modules | {"down": foreign}))
    reasons = {layer.module: layer.reason for layer in coverage.layers if not layer.inserted}
    assert reasons == {
        "up": "its input has 4 axes, and nvfp4 scales blocks of two or three",
        "down": "its blocks are [32, 4], the plan's numbers [32, 2]",
    }
    head = ModuleQuantization("nvfp4", np.ones((5, 1), np.float32), np.float32(1))
    coverage = insertion.insert(document.load(exported("cnn")), Plan({"head": head}))
    assert coverage.layers[0].reason == "its 8 inputs do not divide into blocks of 16"
