"""Checkpoints that others quantized, from their folder to an engine with the very same codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper

from tests import checkpoints as packs
from tests.pipeline.test_decoder_recipe import SIZES, write_tokenizer
from trtbuild.checkpoints import open_checkpoint
from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError, ModelError, RecipeError
from trtbuild.core.quantization import Plan, values_of
from trtbuild.core.report import BuildReport
from trtbuild.core.sources import HuggingFaceSource
from trtbuild.pipeline.build import build
from trtbuild.pipeline.store import Store
from trtbuild.stages.calibrate import CalibrateOptions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LINEARS = 14
"""Of two layers: query, key, value, output, gate, up, down."""

STATIC = 0.05
LAYOUTS: dict[str, tuple[packs.Pack, dict[str, Any], dict[str, Any]]] = {
    "awq": (packs.awq, {"quant_method": "awq", "bits": 4, "version": "gemm"}, {"format": "int4_awq", "block_size": 32}),
    "gptq": (packs.gptq, {"quant_method": "gptq", "bits": 4}, {"format": "int4_gptq", "block_size": 16}),
    "compressed-tensors int4": (
        packs.compressed_int4,
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"format": "int4", "block_size": 32},
    ),
    "compressed-tensors int8": (
        packs.int8,
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        {"format": "int8"},
    ),
    "modelopt fp8": (
        lambda weight: packs.fp8(weight, input_scale=STATIC),
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        {"format": "fp8"},
    ),
    "modelopt int4": (
        lambda weight: packs.modelopt_int4(weight, np.linspace(0.5, 2, weight.shape[1])),
        {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"},
        {"format": "int4_awq", "block_size": 32},
    ),
}


def in_layers(module: str) -> bool:
    return ".layers." in module and "norm" not in module


def llama(tied: bool = False) -> Any:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.15)
    return model


def folder_of(layout: str, folder: Path, *, tied: bool = False) -> tuple[Path, dict[str, Any], Any]:
    """A folder in a layout, the codes of its modules, and the module with the floats that they say."""
    model = llama(tied)
    state = {name: each for name, each in model.state_dict().items() if not tied or name != "lm_head.weight"}
    packed, codes, floats = packs.pack_state(state, LAYOUTS[layout][0], in_layers)
    packs.write_folder(folder, model.config.to_dict(), LAYOUTS[layout][1], packed)
    write_tokenizer(folder)
    model.load_state_dict(floats, strict=not tied)
    assert len(codes) == LINEARS
    return folder, codes, model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_floats_and_its_codes(layout: str, tmp_path: Path) -> None:
    from trtbuild.backends.checkpoint_codes import CheckpointCodes
    from trtbuild.backends.huggingface import HuggingFace

    folder, codes, expected = folder_of(layout, tmp_path / "model", tied=True)
    loaded = HuggingFace().load(HuggingFaceSource(folder=folder, auto_class="AutoModelForCausalLM", outputs=["logits"]))
    assert "quantization_config" not in loaded.config.to_dict()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids)[0], expected(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    plan = QuantizationPlan(path=tmp_path)
    options = CalibrateOptions(rounding="checkpoint", **LAYOUTS[layout][2])
    CheckpointCodes().calibrate(loaded, options, [{"input_ids": ids.numpy()}], plan)
    found = Plan.read(plan)
    assert set(found.kept_high) == {"lm_head"}
    assert found.kept_high["lm_head"] == "the checkpoint has it in high precision"
    for module, numbers in found.modules.items():
        assert np.array_equal(numbers.weight_codes, codes[module])
        scale = numbers.weight_amax / {"int4": 7, "int8": 127, "fp8": 448}[numbers_kind(numbers.format)]
        if scale.ndim == 2:
            scale = scale.repeat(numbers.block_size, 1)
        values = values_of(numbers.weight_codes, numbers_kind(numbers.format)) * (
            scale[:, None] if scale.ndim == 1 else scale
        )
        values = values if numbers.pre_quant_scale is None else values * numbers.pre_quant_scale
        weight = expected.get_submodule(module).weight.detach().numpy()
        np.testing.assert_allclose(values, weight, rtol=1e-5, atol=1e-7)
        if layout == "modelopt fp8":
            assert float(numbers.input_amax) == pytest.approx(STATIC * 448)
        elif layout == "compressed-tensors int8":
            assert float(numbers.input_amax) > 0.1
    assert found.samples == (2 if layout == "compressed-tensors int8" else 0)


def numbers_kind(form: str) -> Any:
    return "fp8" if form.startswith("fp8") else "int4" if form.startswith("int4") else "int8"


def test_what_modelopt_itself_exports(tmp_path: Path) -> None:
    """ModelOpt's own files, not ours: floats within its rounding of the weights that it was given."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    ids = torch.arange(64).reshape(2, 32)
    for config, algorithm, error in (("FP8_DEFAULT_CFG", "FP8", 0.03), ("INT4_AWQ_CFG", "W4A16_AWQ", 0.13)):
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**SIZES, "hidden_size": 128}, architectures=["LlamaForCausalLM"])
        )
        before = {name: each.clone() for name, each in model.state_dict().items()}
        quantized = mtq.quantize(model.half().eval(), getattr(mtq, config), lambda module: module(ids))
        export_hf_checkpoint(quantized, export_dir=tmp_path / algorithm)
        opened = open_checkpoint(tmp_path / algorithm)
        assert len(opened.quantized) == LINEARS
        for name in opened.quantized:
            # AWQ's scales went into the norms where they could, and divide the weights behind them.
            norm = {"q": "input", "k": "input", "v": "input", "gate": "post_attention", "up": "post_attention"}
            layer, _, own = name.rpartition(".self_attn." if "self_attn" in name else ".mlp.")
            read = norm.get(own.split("_")[0])
            factor = 1.0 if read is None else opened[f"{layer}.{read}_layernorm.weight"].float()
            found = opened[name] * factor
            assert (found - before[name]).norm() < error * before[name].norm(), name


RECIPE = """
recipe: imported
model: {huggingface: {folder: model}}
decoder: {capacity: 96, prompt: 16, steps: 8}
data:
  generator: trtbuild.datasets.passages:of_documentation
  arguments: {length: 64, batch: 1}
  calibration: 4
  evaluation: 4
measure: {runs: 3}
engine: {tactics: default}
gates: {accuracy: {perplexity_ratio_to_model: {min: 0.98, max: 1.02}}, pays: "no"}
reference: fp16
variants:
  fp16: {precision: fp16}
"""


def built(folder: Path, recipe: str, *sets: str) -> BuildReport:
    (folder / "recipe.yaml").write_text(recipe)
    return build(folder, sets=list(sets), store=folder / "store", output=folder / "engines")


def check_codes(store: Path, step: str, codes: dict[str, Any]) -> None:
    """The graph before the build holds the checkpoint's codes, bit for bit."""
    import onnx

    actions = {action.step: action for _, action in Store(store).actions()}
    graph = onnx.load(Store(store).folder_of(actions[step].outputs["model"].digest) / "model.onnx").graph
    stored = {
        each.name.removesuffix(".weight_codes"): numpy_helper.to_array(each)
        for each in graph.initializer
        if each.name.endswith(".weight_codes")
    }
    assert stored.keys() == codes.keys()
    for module, expected in codes.items():
        found = stored[module] if stored[module].shape == expected.shape else stored[module].T
        if found.dtype == ml_dtypes.float8_e4m3fn:
            assert np.array_equal(np.ascontiguousarray(found).view(np.int8), expected)
        else:
            # A square weight is stored as [in, out].
            assert np.array_equal(found.astype(np.int8), expected) or np.array_equal(found.T.astype(np.int8), expected)


def test_a_decoder_of_awq_keeps_its_codes_and_its_perplexity(tmp_path: Path) -> None:
    _, codes, _ = folder_of("awq", tmp_path / "model")
    variant = "  imported: {quantize: {format: int4_awq, block_size: 32, rounding: checkpoint}, kv_cache: int8}\n"
    report = built(tmp_path, RECIPE + variant)
    found = {variant.name: variant for variant in report.variants}["imported"]
    assert found.verdict == "passed", found.reasons
    assert found.coverage.asked == found.coverage.inserted == found.coverage.ran == LINEARS + 2
    assert found.accuracy["perplexity_ratio_to_model"] == pytest.approx(1, abs=0.005)
    check_codes(tmp_path / "store", "imported/insert", codes)


FACTORY = """
import numpy as np
import torch
from torch import nn
from trtbuild.checkpoints import load_checkpoint


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(2)), nn.Linear(64, 64)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make(files):
    return load_checkpoint(Net(), files, rename=lambda name: name.removeprefix("model.diffusion_model."))


def samples(split, count):
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 4):
        yield {"x": rng.standard_normal((4, 16, 64)).astype(np.float32)}
"""
OF_FACTORY = """
recipe: lightx2v
model: {factory: {entry: "net:make", files: [weights.safetensors]}}
shapes: {axes: {batch: {min: 1, opt: 4, max: 4}}, inputs: {x: {dtype: float32, dims: [batch, 16, 64]}}}
data: {generator: "net:samples", calibration: 8, evaluation: 8}
measure: {runs: 3}
engine: {tactics: default}
gates: {accuracy: {cosine_min: {min: 0.999}}, pays: "no"}
reference: fp32
variants:
  fp32: {precision: fp32}
"""


def lightx2v(folder: Path, pack: packs.Pack) -> tuple[dict[str, Any], Path]:
    """A net as LightX2V's converter writes it: prefixed names, scales beside the weights, some linears in floats."""
    space: dict[str, Any] = {}
    exec(FACTORY, space)
    torch.manual_seed(0)
    state = space["Net"]().state_dict()
    packed, codes, _ = packs.pack_state(state, pack, lambda module: "blocks" in module and "norm" not in module)
    packs.save_file(
        {f"model.diffusion_model.{name}": each.contiguous() for name, each in packed.items()},
        folder / "weights.safetensors",
    )
    (folder / "net.py").write_text(FACTORY)
    return codes, folder


def test_lightx2v_s_converted_weights_through_a_factory(tmp_path: Path) -> None:
    codes, folder = lightx2v(tmp_path, lambda weight: packs.fp8(weight, channel=True))
    report = built(folder, OF_FACTORY + "  imported: {quantize: {format: fp8_pc_pt, rounding: checkpoint}}\n")
    found = {variant.name: variant for variant in report.variants}["imported"]
    assert found.verdict == "passed", found.reasons
    assert found.coverage.asked == found.coverage.ran == 4
    check_codes(tmp_path / "store", "imported/insert", codes)


def calibrated(folder: Path, form: str, rows: int = 8) -> Plan:
    """The plan of the factory's net."""
    from trtbuild.backends.checkpoint_codes import CheckpointCodes

    space: dict[str, Any] = {}
    exec(FACTORY, space)
    plan, options = QuantizationPlan(path=folder), CalibrateOptions(format=form, rounding="checkpoint")
    samples = list(space["samples"]("calibration", rows))
    CheckpointCodes().calibrate(space["make"]([folder / "weights.safetensors"]), options, samples, plan)
    return Plan.read(plan)


def test_a_format_that_cannot_say_the_codes_is_told_which_can(tmp_path: Path) -> None:
    _, folder = lightx2v(tmp_path, packs.int8)
    found = calibrated(folder, "fp8")
    assert not found.modules
    said = "the checkpoint has int8 with one scale an output channel, which fp8 cannot say: set format to int8 or "
    assert found.kept_high["blocks.0.up"].startswith(said)
    assert found.kept_high["head"] == "the checkpoint has it in high precision"


def test_blocks_may_be_said_in_smaller_ones_and_in_no_larger(tmp_path: Path) -> None:
    _, folder = lightx2v(tmp_path, packs.compressed_int4)
    found = calibrated(folder, "int4")
    assert found.kept_high["blocks.0.up"].endswith("blocks of 32 inputs: set block_size to a divisor of 32")


def test_zero_points_and_activation_order_stay_in_high_precision(tmp_path: Path) -> None:
    for pack, reason in (
        (lambda weight: packs.awq(weight, 7), "symmetric (8 alone); rounding it anew costs"),
        (lambda weight: packs.gptq(weight, order=np.arange(weight.shape[1])[::-1]), "activation order"),
    ):
        _, folder = lightx2v(tmp_path, pack)
        found = calibrated(folder, "int4")
        assert not found.modules
        assert reason in found.kept_high["blocks.0.up"]
        assert "drop `rounding: checkpoint`" in found.kept_high["blocks.0.up"]


def test_without_samples_only_weights_come_over(tmp_path: Path) -> None:
    _, folder = lightx2v(tmp_path, packs.int8)
    with pytest.raises(DataError, match=r"no static input scale for 4 layers, first blocks\.0\.up"):
        calibrated(folder, "int8", rows=0)
    assert len(calibrated(folder, "w8a16", rows=0).modules) == 4


def test_a_plain_checkpoint_has_no_codes_to_take(tmp_path: Path) -> None:
    _, folder = lightx2v(tmp_path, packs.int8)
    space: dict[str, Any] = {}
    exec(FACTORY, space)
    packs.save_file(space["Net"]().state_dict(), folder / "weights.safetensors")
    with pytest.raises(DataError, match="no layer of this one is quantized"):
        calibrated(folder, "int8")


@pytest.mark.parametrize(
    ("quantize", "match"),
    [
        ("{format: nvfp4, rounding: checkpoint}", "nvfp4 has others"),
        ("{format: auto, rounding: checkpoint}", "the checkpoint has chosen"),
        ("{format: w8a16, rounding: checkpoint, qat: {}}", "keeps those of the checkpoint"),
    ],
)
def test_what_does_not_go_with_codes_is_refused_before_any_work(quantize: str, match: str, tmp_path: Path) -> None:
    _, folder = lightx2v(tmp_path, packs.int8)
    with pytest.raises(RecipeError, match=match):
        built(folder, OF_FACTORY + f"  imported: {{quantize: {quantize}}}\n")


def test_unknown_quantizations_of_a_folder_are_refused(tmp_path: Path) -> None:
    from trtbuild.backends.huggingface import HuggingFace

    folder, _, _ = folder_of("awq", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "aqlm"}}))
    with pytest.raises(ModelError, match="quantized by aqlm; AWQ, GPTQ"):
        HuggingFace().load(HuggingFaceSource(folder=folder, auto_class="AutoModelForCausalLM", outputs=["logits"]))
