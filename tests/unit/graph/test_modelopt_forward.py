"""The inserted graph answers as ModelOpt's own module does: quantized by ModelOpt's configuration, run by ModelOpt.

The graph is run without optimizations, so that its numbers are those that it spells.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

from tests.unit.graph.examples import MODELS, run_model, sample
from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import Plan
from trtbuild.graph import document, reading
from trtbuild.graph.insertion import insert
from trtbuild.stages.calibrate import CalibrateOptions

torch = pytest.importorskip("torch")
mtq = pytest.importorskip("modelopt.torch.quantization")

from trtbuild.backends.modelopt import clip  # noqa: E402 - it needs ModelOpt
from trtbuild.backends.modelopt.calibrator import ModelOpt  # noqa: E402

CONFIGS = {
    "int8": mtq.INT8_DEFAULT_CFG,
    "int8_sq": mtq.INT8_SMOOTHQUANT_CFG,
    "fp8": mtq.FP8_DEFAULT_CFG,
    "int4_awq": mtq.INT4_AWQ_CFG,
}
BLOCK, ALPHA, TOLERANCE = 16, 0.5, 1e-4


def model(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def batches(name):
    """Calibration samples whose range the evaluated ones leave: clipping must agree too."""
    return [0.9 * part for part in np.array_split(sample(name), 3)]


def quantized_by_modelopt(name, form):
    """The module as `mtq.quantize` leaves it with ModelOpt's own preset."""
    config = copy.deepcopy(CONFIGS[form])
    for entry in config["quant_cfg"]:
        if (sizes := (entry.get("cfg") or {}).get("block_sizes")) is not None:
            sizes[-1] = BLOCK
    # The presets quantize what LayerNorms read, too.
    config["quant_cfg"].append({"parent_class": "nn.LayerNorm", "quantizer_name": "*", "enable": False})
    if form == "int8_sq":
        config["algorithm"] = {"method": "smoothquant", "alpha": ALPHA}
    inside = torch.nn.ModuleList([model(name)]).eval()

    def forward(_):
        with torch.no_grad():
            for x in batches(name):
                inside[0](torch.from_numpy(x))

    return mtq.quantize(inside, config, forward)[0]


def calibrated(name, form, folder, rounding="nearest"):
    folder.mkdir()
    plan = QuantizationPlan(folder)
    options = CalibrateOptions(format=form, block_size=BLOCK, alpha=ALPHA, rounding=rounding)
    ModelOpt().calibrate(model(name), options, [{"x": x} for x in batches(name)], plan)
    return Plan.read(plan)


def answers(name, plan, exported, folder):
    graph = document.load(exported(name))
    insert(graph, plan, attention="high")
    return run_model(graph, sample(name), folder)


def answered(module, name):
    with torch.no_grad():
        return module(torch.from_numpy(sample(name))).numpy()


def relative(got, wanted):
    return float(np.linalg.norm(got.astype(np.float64) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", ["mlp", "gelu", "postnorm"])
@pytest.mark.parametrize("form", CONFIGS)
def test_the_graph_answers_as_the_module_that_modelopt_quantized(name, form, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "SHARES", (1.0,))  # the preset's AWQ only scales; the next test clips
    plan = calibrated(name, form, tmp_path / "plan")
    module = quantized_by_modelopt(name, form)
    alone = answered(module, name)
    shared = name == "postnorm" and FORMATS[form].algorithm != "max"
    if shared:
        share_scales(module, plan)
    got, wanted = answers(name, plan, exported, tmp_path / "graph"), answered(module, name)
    assert relative(got, wanted) <= TOLERANCE
    assert relative(wanted, answered(model(name), name)) > 20 * TOLERANCE, "quantization must show"
    if shared:
        # With a scale of its own for each of query, key and value ModelOpt's module computes something else, which no
        # norm before the three could carry.
        assert relative(got, alone) > TOLERANCE


def share_scales(module, plan):
    """Give query, key and value of ModelOpt's module one scale: SmoothQuant's greatest, AWQ's mean."""
    group = ["attention.query", "attention.key", "attention.value"]
    scales = np.stack([plan.modules[path].pre_quant_scale for path in group])
    numbers = plan.modules[group[0]]
    awq = FORMATS[numbers.format].algorithm == "awq"
    scale = torch.from_numpy(scales.mean(0) if awq else scales.max(0))
    for path in group:
        layer, own = module.get_submodule(path), torch.from_numpy(plan.modules[path].pre_quant_scale)
        layer.weight.data = layer.weight.data * own / scale  # ModelOpt has divided it by its own
        layer.input_quantizer.pre_quant_scale = scale
        amax = layer.weight_quantizer.amax
        blocks = layer.weight.data.abs().reshape(len(layer.weight), -1, BLOCK if awq else layer.weight.shape[1])
        layer.weight_quantizer.amax = blocks.amax(-1).reshape(amax.shape)
        if FORMATS[numbers.format].activation:
            reached = torch.from_numpy(plan.modules[path].input_channel_amax)
            layer.input_quantizer.amax = (reached * scale).amax()


@pytest.mark.parametrize("name", ["mlp", "gelu"])
def test_clipped_awq_answers_as_modelopt_with_the_same_clips(name, exported, tmp_path):
    plan = calibrated(name, "int4_awq", tmp_path / "plan")
    module, clipped = quantized_by_modelopt(name, "int4_awq"), 0
    for path, numbers in plan.modules.items():
        quantizer = module.get_submodule(path).weight_quantizer
        amax = torch.from_numpy(numbers.weight_amax).reshape(quantizer.amax.shape)
        clipped += int((amax < 0.99 * quantizer.amax).sum())
        quantizer.amax = amax
        quantizer._narrow_range = True  # a clipped weight would become -8 there, and a plan's codes are symmetric
    assert clipped
    got, wanted = answers(name, plan, exported, tmp_path / "graph"), answered(module, name)
    assert relative(got, wanted) <= TOLERANCE


@pytest.mark.parametrize(
    ("form", "rounding"), [("int4_awq", "nearest"), ("int4_gptq", "nearest"), ("int4", "gptq"), ("int4_awq", "gptq")]
)
def test_clipped_blocks_stay_clipped_in_the_graph(form, rounding, exported, tmp_path):
    """Also where an exporter might have folded a norm into the weight, which lets insertion doubt the plan's ranges."""
    plan = calibrated("mlp", form, tmp_path / "plan", rounding)
    graph = document.load(exported("mlp"))
    coverage = insert(graph, plan, attention="high")
    assert [layer.inserted for layer in coverage.layers] == [True, True]
    for module, numbers in reading.read(graph).modules.items():
        planned, weight = plan.modules[module], model("mlp").get_submodule(module).weight.detach().numpy()
        if planned.pre_quant_scale is not None:
            weight = weight / planned.pre_quant_scale
        greatest = np.abs(weight).reshape(len(weight), -1, BLOCK).max(2)
        assert (planned.weight_amax < 0.99 * greatest).any()
        if module == "b":  # nothing after it has a scale that would fold into its rows
            assert np.allclose(numbers.weight_amax, planned.weight_amax, rtol=1e-6)
        else:
            rows = numbers.weight_amax / planned.weight_amax
            assert np.allclose(rows, rows[:, :1], rtol=1e-5), "the next layer's scale goes into whole rows"
