"""Every format on every small model: the inserted graph computes what the plan says, with the nodes it claims."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from tests.unit.graph.examples import MODELS, amax_of, linears, make_plan, run, run_model, sample
from tests.unit.graph.reference import assert_same_numerics, reference, relative
from trtbuild.core.dialects import TENSORRT_8
from trtbuild.core.errors import ModelError
from trtbuild.core.formats import FORMATS, GREATEST
from trtbuild.core.quantization import Plan, codes_of
from trtbuild.graph import document, insertion
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import along_output, products

torch = pytest.importorskip("torch")
STATIC = [name for name, traits in FORMATS.items() if not traits.dynamic]  # test_block_scales has the others
OF_CONVOLUTIONS = [name for name in STATIC if FORMATS[name].granularity in ("tensor", "channel")]
CASES = [(model, form) for model in ("postnorm", "prenorm", "mlp", "gelu") for form in STATIC]
CASES += [("cnn", form) for form in OF_CONVOLUTIONS]
LOSS = {"int8": 0.06, "fp8": 0.12, "int4": 0.3}
"""Distance from the float model that each weight type stays within on random weights, the worst that weights can be."""


def counted(model, coverage):
    """Q and DQ nodes of the graph, and the DQ nodes that the coverage claims: a weight's, and one for each input."""
    counts = Counter(node.op_type for node in model.graph)
    inserted = [FORMATS[layer.format] for layer in coverage.layers if layer.inserted]
    return counts["QuantizeLinear"], counts["DequantizeLinear"], sum(1 + bool(traits.activation) for traits in inserted)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_the_graph_computes_what_the_plan_says(exported, tmp_path, name, form):
    path, x = exported(name), sample(name)
    plan, model = make_plan(path, x, form), document.load(path)
    coverage = insertion.insert(model, plan, include=["*"] if name == "cnn" else [], attention="high")
    assert (coverage.asked, coverage.inserted) == (len(plan.modules),) * 2, coverage
    smoothed = FORMATS[form].algorithm in ("smoothquant", "awq")
    assert coverage.smoothing_left == ({"mlp": ["a"], "cnn": ["head"]}.get(name, []) if smoothed else [])
    quantizers, dequantizers, claimed = counted(model, coverage)
    assert dequantizers == claimed
    assert quantizers == (len({tensor for tensor, _ in linears(path).values()}) if FORMATS[form].activation else 0)
    got = run_model(model, x, tmp_path)
    assert_same_numerics(got, reference(name, plan, path))
    assert 0 < relative(got, run(path, x)[0]) < LOSS[FORMATS[form].weight]


@pytest.mark.parametrize("form", STATIC)
def test_weights_take_the_space_of_their_type(exported, form):
    path = exported("postnorm")
    model = document.load(path)
    insertion.insert(model, make_plan(path, sample("postnorm"), form))
    stored = {node.inputs[0] for node in model.graph if node.op_type == "DequantizeLinear" and constant(node.inputs[0])}
    bits = {"int8": 8, "fp8": 8, "int4": 4}[FORMATS[form].weight]
    assert len(stored) == 6
    assert all(8 * value.const_value.nbytes == bits * value.const_value.size for value in stored)
    assert not [name for name in model.graph.initializers if name.endswith(".weight") and "norm" not in name
                and model.graph.initializers[name].const_value.size >= 32 * 32]  # fmt: skip


def mixed_plan(path, x, forms):
    plans = {form: make_plan(path, x, form) for form in set(forms.values())}
    return Plan({module: plans[form].modules[module] for module, form in forms.items()})


def test_one_graph_holds_every_type_and_readers_share_a_quantizer_by_type(exported, tmp_path):
    path, x = exported("postnorm"), sample("postnorm")
    forms = {"attention.query": "int8", "attention.key": "fp8", "attention.value": "fp8_pc_pt"}
    forms |= {"attention.out": "int4", "up": "w4a8_awq", "down": "int8_sq"}
    plan, model = mixed_plan(path, x, forms), document.load(path)
    coverage = insertion.insert(model, plan, attention="high")
    assert coverage.inserted == 6
    quantizers, dequantizers, claimed = counted(model, coverage)
    assert (quantizers, dequantizers) == (4, claimed)
    assert_same_numerics(run_model(model, x, tmp_path), reference("postnorm", plan, path))
    reads = {node.name: node.inputs[0].producer().inputs[0].producer() for node in model.graph
             if node.name in ("attention.query/MatMul", "attention.key/MatMul", "attention.value/MatMul")}  # fmt: skip
    assert reads["attention.key/MatMul"] is reads["attention.value/MatMul"]
    assert reads["attention.query/MatMul"] is not reads["attention.key/MatMul"]
    assert reads["attention.query/MatMul"].inputs[0] is reads["attention.key/MatMul"].inputs[0]


def test_only_smoothed_readers_of_a_tensor_read_it_scaled(exported, tmp_path):
    path, x = exported("postnorm"), sample("postnorm")
    forms = {"attention.query": "int8_sq", "attention.key": "int8_sq", "attention.value": "int8", "up": "int4_awq"}
    plan, model = mixed_plan(path, x, forms), document.load(path)
    coverage = insertion.insert(model, plan)
    assert (coverage.smoothing_folded, coverage.smoothing_left) == (3, [])
    norms = {node.name for node in model.graph if node.op_type == "LayerNormalization"}
    assert {"first/LayerNormalization", "first/LayerNormalization_smoothed"} <= norms
    assert_same_numerics(run_model(model, x, tmp_path), reference("postnorm", plan, path))


def test_two_algorithms_on_one_tensor_each_scale_a_norm_of_their_own(exported, tmp_path):
    path, x = exported("postnorm"), sample("postnorm")
    forms = {"attention.query": "int8_sq", "attention.key": "w4a8_awq", "attention.value": "int4_awq"}
    plan, model = mixed_plan(path, x, forms), document.load(path)
    assert insertion.insert(model, plan, attention="high").smoothing_left == []
    assert_same_numerics(run_model(model, x, tmp_path), reference("postnorm", plan, path))


@pytest.mark.parametrize(
    ("form", "name"), [("int4", "mlp"), ("int4_awq", "mlp"), ("fp8_block128", "mlp"), ("int4", "gelu")]
)
def test_blocks_run_along_the_inputs_of_a_matmul(exported, form, name):
    path = exported(name)
    model = document.load(path)
    insertion.insert(model, make_plan(path, sample(name), form))
    assert "Gemm" not in {node.op_type for node in model.graph}
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            codes, scale = (constant(value) for value in node.inputs[:2])
            inputs, outputs = codes.shape.numpy()
            block = node.attributes["block_size"].as_int()
            assert node.attributes["axis"].as_int() == 0
            assert tuple(scale.shape.numpy()) == (-(-inputs // block), outputs)
            assert node.outputs[0].consumers()[0].name.endswith("/MatMul")
    if name == "mlp":
        assert [value.name for value in model.graph.outputs] == ["y"]
        assert {"a/MatMul", "a/Add", "b/MatMul", "b/Add"} <= {node.name for node in model.graph}


@pytest.mark.parametrize("form", ["int8", "int8_sq", "w8a16"])
@pytest.mark.parametrize("name", ["postnorm", "mlp", "cnn"])
def test_tensorrt_8_gets_float_weights_and_the_same_numbers(exported, tmp_path, name, form):
    path, x = exported(name), sample(name)
    plan, codes, floats = make_plan(path, x, form), document.load(path), document.load(path)
    insertion.insert(codes, plan)
    coverage = insertion.insert(floats, plan, dialect=TENSORRT_8)
    weights = [node for node in floats.graph if (node.name or "").endswith("/QuantizeLinear_weight")]
    assert len(weights) == coverage.inserted > 0
    assert all(constant(node.inputs[0]).dtype.name == "FLOAT" for node in weights)
    assert not any(value.const_value.dtype.name == "INT8" and value.const_value.numpy().any()
                   for value in floats.graph.initializers.values())  # fmt: skip
    one, other = run_model(codes, x, tmp_path / "codes"), run_model(floats, x, tmp_path / "floats")
    assert_same_numerics(other, one, tolerance=1e-6)


def test_tensorrt_8_names_itself_where_it_cannot_say_a_format(exported):
    path = exported("mlp")
    with pytest.raises(ModelError, match=r"TensorRT 8\.6 quantizes INT8 weights alone, and fp8 has FP8 weights"):
        insertion.insert(document.load(path), make_plan(path, sample("mlp"), "fp8"), dialect=TENSORRT_8)


@pytest.mark.parametrize(("form", "opset"), [("fp8", 19), ("int4", 21), ("fp8_block128", 21)])
def test_a_format_newer_than_the_opset_is_refused(exported, form, opset):
    path = exported("mlp")
    model = document.load(path)
    model.opset_imports[""] = 18
    with pytest.raises(ModelError, match=f"opset {opset}"):
        insertion.insert(model, make_plan(path, sample("mlp"), form))


@pytest.mark.parametrize("form", STATIC)
def test_scales_stay_in_the_range_of_fp16(exported, tmp_path, form):
    """Ranges from nothing to more than FP16 can say give scales that are finite and not zero."""
    path = exported("mlp")
    plan = make_plan(path, sample("mlp"), form)
    extreme = {"a": 1e-12, "b": 1e9}
    modules = {
        module: replace(
            numbers,
            weight_amax=np.float32(extreme[module]) * np.ones_like(numbers.weight_amax),
            input_amax=None if numbers.input_amax is None else np.float32(extreme[module]),
            weight_codes=None,
            pre_quant_scale=None,
        )
        for module, numbers in plan.modules.items()
    }
    model = document.load(path)
    for value in model.graph.initializers.values():
        if value.const_value.dtype.name == "FLOAT":
            value.const_value = type_of(value.const_value.numpy().astype(np.float16), value.name)
    insertion.insert(model, Plan(modules))
    scales = [constant(node.inputs[1]).numpy() for node in model.graph if node.op_type == "DequantizeLinear"]
    assert all(scale.dtype == np.float16 and np.isfinite(scale).all() and (scale > 0).all() for scale in scales)


def type_of(array, name):
    import onnx_ir as ir

    return ir.tensor(array, name=name)


def test_blocks_that_do_not_divide_the_inputs_say_so(exported):
    path = exported("gelu")
    plan = make_plan(path, sample("gelu"), "int4")
    wrong = {
        "up": replace(plan.modules["up"], block_size=24, weight_amax=np.ones((64, 2), np.float32)),
        "middle": replace(plan.modules["middle"], weight_amax=np.ones((64, 2), np.float32)),
        "down": replace(plan.modules["down"], weight_codes=np.ones((32, 63), np.int8)),
    }
    coverage = insertion.insert(document.load(path), Plan(wrong))
    assert {layer.module: layer.reason for layer in coverage.layers} == {
        "up": "its 32 inputs do not divide into blocks of 24",
        "middle": "its blocks are [64, 4], the plan's numbers [64, 2]",
        "down": "its weight is [32, 64], the plan's codes are [32, 63]",
    }


def test_codes_of_another_weight_are_not_written(exported):
    path = exported("gelu")
    plan = make_plan(path, sample("gelu"), "int4_gptq")
    codes = np.random.default_rng(0).permutation(plan.modules["up"].weight_codes)
    coverage = insertion.insert(document.load(path), Plan({"up": replace(plan.modules["up"], weight_codes=codes)}))
    assert "codes are of another weight" in coverage.layers[0].reason


@pytest.mark.parametrize("form", ["int4_gptq", "int8", "fp8"])
def test_codes_of_a_weight_before_a_norm_was_folded_into_it_are_not_written(exported, form):
    path = exported("mlp")
    numbers = make_plan(path, sample("mlp"), form).modules["a"]
    weight = linears(path)["a"][1]
    if form != "int4_gptq":
        scale = np.reshape(numbers.weight_amax, (-1, 1)) / GREATEST[FORMATS[form].weight]
        ratio = weight / scale
        numbers = replace(numbers, weight_codes=codes_of(np.rint(ratio) if form == "int8" else ratio, form))
    for factor, said in ((1.0, ""), (np.linspace(0.7, 1.4, len(weight), dtype=np.float32), "folded a norm")):
        model = document.load(path)
        gemm = products(model.graph)["a"][0]
        stored = gemm.inputs[1].const_value.numpy() * along_output(gemm, np.float32(1) * factor * np.ones(len(weight)))
        gemm.inputs[1].const_value = ir.tensor(stored.astype(np.float32), name=gemm.inputs[1].name)
        assert said in insertion.insert(model, Plan({"a": numbers})).layers[0].reason
    assert said


def test_a_convolution_takes_no_blocks_and_a_grouped_transposed_one_no_channels(exported):
    path = exported("cnn")
    plan = make_plan(path, sample("cnn"), "int8")
    model = document.load(path)
    up = next(node for node in model.graph if node.op_type == "ConvTranspose")
    up.attributes["group"] = type(up.attributes["group"])("group", up.attributes["group"].type, 2)
    blocks = replace(plan.modules["grouped"], format="int4", block_size=16)
    coverage = insertion.insert(model, Plan({"grouped": blocks, "up": plan.modules["up"]}))
    assert {layer.module: layer.reason for layer in coverage.layers} == {
        "grouped": "int4 scales blocks of a matrix, and this is a convolution: int8 and fp8 can be",
        "up": "a transposed convolution in groups has no axis of output channels to scale",
    }


@pytest.mark.parametrize("form", OF_CONVOLUTIONS)
def test_a_norm_that_the_exporter_folded_into_a_weight_does_not_spoil_its_range(exported, tmp_path, form):
    """Calibration saw the weights before the norm went into them; the graph holds them after."""
    path, x = exported("cnn"), sample("cnn")
    torch.manual_seed(0)
    module, plan = MODELS["cnn"]().eval(), make_plan(path, x, form)
    calibrated = {
        name: replace(
            plan.modules[name],
            weight_amax=amax_of(module.get_submodule(name).weight.detach().numpy(), FORMATS[form].granularity, 0),
        )
        for name in ("stem", "grouped")
    }
    assert not np.allclose(calibrated["stem"].weight_amax, plan.modules["stem"].weight_amax, rtol=0.1)
    model = document.load(path)
    insertion.insert(model, Plan(plan.modules | calibrated), include=["*"])
    assert_same_numerics(run_model(model, x, tmp_path), reference("cnn", plan, path))
