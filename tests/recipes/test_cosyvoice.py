"""CosyVoice's recipes as they ship, on small checkpoints and ONNX files made here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.recipes.cosyvoice import (
    DIT,
    FLOW,
    HIFT,
    LLM,
    RECIPES,
    dit_state,
    flow_state,
    hift_state,
    llm_state,
    module_of,
    record_features,
    record_flow,
    record_hift,
    record_spectrograms,
    record_speech,
    write_campplus,
    write_speech_tokenizer,
)
from trtbuild.core.errors import DataError, ModelError, TrtbuildError
from trtbuild.core.report import BuildReport, VariantReport
from trtbuild.pipeline.build import build
from trtbuild.pipeline.repair import build_and_repair
from trtbuild.pipeline.run import Limits
from trtbuild.recipe.load import load

FEW = [
    "data.calibration=16",
    "data.evaluation=8",
    "data.arguments.held_out=0.5",
    "measure={runs: 3, warm_up: 1}",
    "engine.tactics=default",
]
ALONE = Limits(jobs=1)
"""One worker: what it imports costs more than what it does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, recordings, one store and one place for engines."""
    return tmp_path_factory.mktemp("cosyvoice")


def listed(*files: Path) -> str:
    return json.dumps([str(file) for file in files])


def sets_of(checkpoint: Path, sizes: dict[str, Any], recorded: Path, *more: str) -> list[str]:
    return [
        *FEW,
        f"model.factory.files={listed(checkpoint)}",
        f"model.factory.arguments={json.dumps(sizes)}",
        f"data.files={listed(recorded)}",
        *more,
    ]


def built(folder: Path, recipe: str, sets: Sequence[str], *variants: str) -> dict[str, VariantReport]:
    places = {"store": folder / "store", "output": folder / "engines"}
    report = build(RECIPES / recipe, sets=sets, variants=variants, limits=ALONE, **places)
    return {variant.name: variant for variant in report.variants}


def kept_high(folder: Path, recipe: str, variant: str) -> dict[str, str]:
    manifest = json.loads((folder / "engines" / recipe / variant / "manifest.json").read_text())
    found: dict[str, str] = manifest["coverage"]["kept_high"]
    return found


# Checkpoints by name


def state_of(recipe: str, module: Any) -> dict[str, torch.Tensor]:
    return {"cosyvoice2/flow": flow_state, "cosyvoice3/flow": dit_state, "cosyvoice2/hift": hift_state}[recipe](module)


PARTS = [
    ("cosyvoice2/flow", "flow_estimator", "estimator", FLOW),
    ("cosyvoice3/flow", "dit_estimator", "estimator", DIT),
    ("cosyvoice2/hift", "hift_vocoder", "vocoder", HIFT),
]


@pytest.mark.parametrize(("recipe", "name", "function", "sizes"), PARTS, ids=[part[0] for part in PARTS])
def test_a_wrong_checkpoint_names_the_first_ten_differences(
    recipe: str, name: str, function: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    with module_of(recipe, name) as module:
        state = state_of(recipe, module)
        whole, gone = tmp_path / "whole.pt", tmp_path / "gone.pt"
        torch.save(state, whole)
        names = list(getattr(module, function)([whole], **sizes).state_dict())
        # Half of the estimator is missing, and one tensor has another name.
        lacking = {each: tensor for number, (each, tensor) in enumerate(state.items()) if number % 2}
        torch.save(lacking | {"decoder.estimator.proj.weight": torch.zeros(1), "surplus": torch.zeros(1)}, gone)
        with pytest.raises(ModelError) as caught:
            getattr(module, function)([gone], **sizes)
    assert caught.value.message.count("missing ") == 10
    assert f"missing {names[0]};" in caught.value.message
    assert " more" in caught.value.message


@pytest.mark.parametrize("recipe", ["cosyvoice2/flow", "cosyvoice3/flow"])
def test_what_no_part_of_the_estimator_is_called_is_no_difference_and_what_is_is_one(
    recipe: str, tmp_path: Path
) -> None:
    name, sizes = ("flow_estimator", FLOW) if recipe == "cosyvoice2/flow" else ("dit_estimator", DIT)
    with module_of(recipe, name) as module:
        state = state_of(recipe, module) | {"spk_embed_affine_layer.weight": torch.zeros(1)}
        torch.save(state | {"decoder.estimator.more.weight": torch.zeros(1)}, tmp_path / "flow.pt")
        with pytest.raises(ModelError, match=r"\(\d+ tensors do\): extra more\.weight\n"):
            module.estimator([tmp_path / "flow.pt"], **sizes)


def test_a_folded_vocoder_computes_what_the_normalized_one_does(tmp_path: Path) -> None:
    with module_of("cosyvoice2/hift", "hift_vocoder") as module:
        torch.save(hift_state(module), tmp_path / "hift.pt")
        weight = module.vocoder([tmp_path / "hift.pt"], **HIFT).conv_pre.weight
        state = hift_state(module)
    g, v = (state[f"generator.conv_pre.parametrizations.weight.original{each}"] for each in (0, 1))
    torch.testing.assert_close(weight, torch.nn.utils.parametrizations.torch._weight_norm(v, g, 0))


# Arithmetic that the original does otherwise


@pytest.mark.parametrize("recipe", ["cosyvoice2/flow", "cosyvoice3/flow"])
def test_frames_behind_the_mask_and_later_chunks_change_nothing(recipe: str) -> None:
    name, sizes = ("flow_estimator", FLOW) if recipe == "cosyvoice2/flow" else ("dit_estimator", DIT)
    with module_of(recipe, name) as module:
        state = state_of(recipe, module)
        more = {} if recipe == "cosyvoice2/flow" else {"mlp_ratio": 2}
        estimator = module.Estimator(mels=80, chunk=10, **sizes, **more).eval()
    estimator.load_state_dict(
        {each.removeprefix("decoder.estimator."): t for each, t in state.items() if "est" in each}
    )
    torch.manual_seed(0)
    x, mu, cond = (torch.randn(2, 80, 30) for _ in range(3))
    mask = torch.ones(2, 1, 30)
    mask[0, :, 25:] = 0
    t, spks = torch.rand(2), torch.randn(2, 80)
    with torch.no_grad():
        before = estimator(x, mask, mu, t, spks, cond)
        x[:, :, 20:], mu[0, :, 25:] = 5.0, 7.0
        after = estimator(x, mask, mu, t, spks, cond)
    torch.testing.assert_close(before[..., :20], after[..., :20])
    assert (before - after)[..., 20:25].abs().max() > 0.1


def test_the_transform_is_pytorch_s_and_its_inverse_gives_the_signal_back() -> None:
    with module_of("cosyvoice2/hift", "hift_vocoder") as module:
        fourier = module.generator.ShortTimeFourier(16, 4)
    signal = torch.randn(2, 480)
    spectrum = torch.stft(signal, 16, 4, 16, window=torch.hann_window(16), return_complex=True)
    found = fourier(signal)
    torch.testing.assert_close(found, torch.cat([spectrum.real, spectrum.imag], dim=1), atol=1e-5, rtol=0)
    back = fourier.inverse(spectrum.abs(), spectrum.angle())
    torch.testing.assert_close(back, signal, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_the_source_is_the_original_s_sample_by_sample(causal: bool) -> None:
    """SineGen2's own words, in FP64, in which its growing phase loses nothing."""
    hop, rate, frames = 480, 24000, 12
    with module_of("cosyvoice2/hift", "hift_vocoder") as module:
        source = module.generator.Source(rate, hop, 9, causal=causal).double()
    pitch = torch.linspace(90, 333, frames, dtype=torch.float64)[None]
    samples = pitch.repeat_interleave(hop, dim=1)[..., None] * torch.arange(1, 10)
    turns = ((samples / rate) % 1).transpose(1, 2)
    turns = torch.nn.functional.interpolate(turns, scale_factor=1 / hop, mode="linear")
    phase = turns.cumsum(2) * 2 * torch.pi * hop
    phase = torch.nn.functional.interpolate(phase, scale_factor=hop, mode="nearest" if causal else "linear")
    found = source.cycles(pitch).flatten(1, 2).transpose(1, 2) * 2 * torch.pi
    torch.testing.assert_close(found.sin(), phase.sin(), atol=1e-4, rtol=0)


def test_a_stream_s_chunks_of_the_causal_vocoder_are_the_whole_s(tmp_path: Path) -> None:
    """Frames up to the eighth from the end do not change when more come: those may be spoken."""
    with module_of("cosyvoice2/hift", "hift_vocoder") as module:
        torch.save(hift_state(module, causal=True), tmp_path / "hift.pt")
        vocoder = module.vocoder([tmp_path / "hift.pt"], causal=True, **HIFT)
    mel, noise = torch.randn(1, 80, 30), torch.randn(1, 30, 4320)
    none = torch.zeros(1, 30, 480), torch.zeros(1, 30, 1)
    with torch.no_grad():
        whole, _ = vocoder(mel, noise, *none)
        part, _ = vocoder(mel[..., :20], noise[:, :20], *(each[:, :20] for each in none))
    torch.testing.assert_close(part[:, : 12 * 480], whole[:, : 12 * 480], atol=1e-5, rtol=0)
    assert (part - whole[:, : 20 * 480]).abs().max() > 1e-3


# Recipes, end to end


def test_the_flow_estimator_in_every_format(folder: Path) -> None:
    with module_of("cosyvoice2/flow", "flow_estimator") as module:
        torch.save(flow_state(module), folder / "flow.pt")
    recorded = record_flow(folder / "flow", rows=48)
    clipped = "variants.clipped={quantize: {format: int8, method: percentile, percentile: 90.0}}"
    more = ["shapes.axes.frames.opt=24", "gates.pays='no'", clipped, "gates.accuracy.cosine_min.min=0.99"]
    variants = built(folder, "cosyvoice2/flow", sets_of(folder / "flow.pt", FLOW, recorded, *more))
    fault = variants.pop("clipped")
    assert fault.verdict == "failed", "ranges that cut a tenth of the activations"
    assert fault.reasons[0].startswith("cosine_min is 0.9")
    assert {name: variant.verdict for name, variant in variants.items()} == dict.fromkeys(
        ("fp32", "fp16", "fp8", "int8_sq"), "passed"
    )
    assert variants["fp16"].accuracy["cosine_min"] > 0.999
    # 3 x (time, q, k, v, out, up, down), and 10 of 12 convolutions; FP8 also 3 attentions.
    assert variants["int8_sq"].coverage.model_dump() == {"asked": 31, "inserted": 31, "ran": 31, "untold": 0}
    assert variants["fp8"].coverage.model_dump() == {"asked": 34, "inserted": 34, "ran": 34, "untold": 0}
    assert list(kept_high(folder, "cosyvoice2_flow", "int8_sq")) == [
        "down_blocks.0.0.block1.block.0",
        "down_blocks.0.0.res_conv",
        "final_proj",
        "time_mlp.linear_1",
        "time_mlp.linear_2",
    ]
    assert variants["int8_sq"].size_bytes < 0.82 * variants["fp32"].size_bytes, "more of a small graph is structure"


@pytest.fixture(scope="module")
def overflowing(folder: Path) -> BuildReport:
    """CosyVoice3's estimator with a residual stream beyond 65504, repaired."""
    with module_of("cosyvoice3/flow", "dit_estimator") as module:
        state = dit_state(module)
    for name, tensor in state.items():
        if name.endswith("input_embed.proj.weight"):
            tensor.mul_(1500)
        if name.endswith(("attn.to_out.0.weight", "ff.ff.2.weight")):
            tensor.mul_(3000)
    torch.save(state, folder / "dit.pt")
    recorded = record_flow(folder / "loud", rows=48, scale=60)
    sets = sets_of(folder / "dit.pt", DIT, recorded, "shapes.axes.frames.opt=24", "gates.pays='no'")
    places = {"store": folder / "store", "output": folder / "engines"}
    return build_and_repair(RECIPES / "cosyvoice3/flow", sets=sets, limits=ALONE, **places)


def test_what_overflows_in_fp16_is_found_pinned_to_fp32_and_written_down(overflowing: BuildReport) -> None:
    (repair,) = overflowing.repairs
    assert repair.variant == "fp16"
    assert repair.reasons[0] == "output estimator_out held NaN or infinity in 4 of 4 batches"
    assert repair.outcome == "repaired"
    # The residual stream and the norms that read it, and nothing of attention and MLP.
    assert "transformer_blocks.0.attn_norm/LayerNormalization" in repair.keep_fp32
    assert "transformer_blocks.0/Add" in repair.keep_fp32
    assert not [node for node in repair.keep_fp32 if ".attn." in node or ".ff." in node]
    assert overflowing.patch is not None
    patch = Path(overflowing.patch.file).read_text()
    assert "+      - transformer_blocks.0/Add  # reads up to " in patch


def test_cosyvoice3_s_estimator_in_every_format(folder: Path, overflowing: BuildReport) -> None:
    assert {variant.name: variant.verdict for variant in overflowing.variants} == dict.fromkeys(
        ("fp32", "fp16", "fp8", "int8_sq"), "passed"
    )
    coverage = {variant.name: variant.coverage for variant in overflowing.variants}
    # 2 x (q, k, v, out, up, down), the input's linear and its 2 convolutions; FP8 also 2 attentions.
    assert (coverage["int8_sq"].asked, coverage["int8_sq"].ran) == (15, 15)
    assert (coverage["fp8"].asked, coverage["fp8"].ran) == (17, 17)


def test_the_vocoder_stays_in_floating_point_and_its_gate_says_why(folder: Path) -> None:
    with module_of("cosyvoice2/hift", "hift_vocoder") as module:
        torch.save(hift_state(module), folder / "hift.pt")
    more = ["shapes.axes.frames.opt=8", "gates.pays='no'"]
    sets = sets_of(folder / "hift.pt", HIFT, record_hift(folder / "hift", rows=48), *more)
    asked = "variants.int8={quantize: {format: int8, include: ['resblocks.*']}}"
    variants = built(folder, "cosyvoice2/hift", [*sets, asked])
    int8 = variants.pop("int8")
    assert [(name, variant.verdict) for name, variant in variants.items()] == [("fp32", "passed"), ("fp16", "passed")]
    assert variants["fp32"].accuracy["si_sdr_db_min"] > 80
    assert 20 < variants["fp16"].accuracy["si_sdr_db_min"] < 80, "it does run in 16 bits"
    assert (int8.coverage.asked, int8.coverage.ran) == (6, 6)
    assert int8.verdict == "failed"
    assert "at least 20 is wanted" in " ".join(int8.reasons)
    with pytest.raises(TrtbuildError, match="nothing is left to quantize") as caught:
        built(folder, "cosyvoice2/hift", [*sets, "variants.int8={quantize: {format: int8}}"], "int8")
    assert "the graph makes 480 steps of one, so it writes a waveform; `include` overrides it" in str(caught.value)


def onnx_sets(model: Path, recorded: Path, *more: str) -> list[str]:
    return [*FEW, f"model.onnx={model}", f"data.files={listed(recorded)}", "gates.pays='no'", *more]


def test_the_speaker_encoder(folder: Path) -> None:
    sets = onnx_sets(write_campplus(folder / "campplus.onnx"), record_features(folder / "features"))
    fault = "variants.int4={quantize: {format: int4, block_size: 32}, gates: {accuracy: {cosine_min: {min: 0.999}}}}"
    variants = built(folder, "cosyvoice2/speaker_encoder", [*sets, fault])
    int4 = variants.pop("int4")
    assert int4.verdict == "failed"
    assert int4.reasons[0].startswith("cosine_min is 0.99")
    assert [(name, variant.verdict) for name, variant in variants.items()] == [("fp16", "passed"), ("int8", "passed")]
    assert variants["int8"].coverage.model_dump() == {"asked": 3, "inserted": 3, "ran": 3, "untold": 0}


def test_the_speech_tokenizer(folder: Path) -> None:
    model = write_speech_tokenizer(folder / "speech_tokenizer_v2.onnx")
    sets = onnx_sets(model, record_spectrograms(folder / "spectrograms"))
    fault = "variants.int4={quantize: {format: int4}}"
    variants = built(folder, "cosyvoice2/speech_tokenizer", [*sets, fault])
    int4 = variants.pop("int4")
    assert int4.verdict == "failed"
    assert int4.reasons[0].startswith("token_agreement is 0.")
    assert {name: variant.verdict for name, variant in variants.items()} == dict.fromkeys(
        ("fp32", "fp16", "w8a16"), "passed"
    )
    assert variants["w8a16"].coverage.ran == variants["w8a16"].coverage.asked > 0


def test_an_onnx_file_of_another_interface_is_refused_with_its_own(folder: Path) -> None:
    model = write_speech_tokenizer(folder / "wrong.onnx")
    with pytest.raises(TrtbuildError, match="its inputs are feats, feats_length"):
        built(folder, "cosyvoice2/speaker_encoder", onnx_sets(model, record_features(folder / "features")), "fp16")


# The language model


def test_the_language_model_steps_down_to_four_bits(folder: Path) -> None:
    with module_of("cosyvoice2/llm", "speech_lm") as module:
        torch.save(llm_state(module), folder / "llm.pt")
    sets = sets_of(folder / "llm.pt", LLM, record_speech(folder / "speech"), "gates.pays='no'")
    small = ["decoder={capacity: 64, prompt: 16, steps: 16, tokenizer: false}", "quantize.block_size=32"]
    truth = "gates.accuracy={perplexity_ratio: {min: 0.95, max: 1.05}, kv_bytes_ratio: {max: 0.54}}"
    coarse = "variants.int4_awq_kv_int8.gates.accuracy={top1_agreement: {min: 0.95}}"
    variants = built(folder, "cosyvoice2/llm", [*sets, *small, truth, coarse])
    fault = variants.pop("int4_awq_kv_int8")
    assert fault.verdict == "failed", "random weights do not stand four bits"
    assert any(reason.startswith("top1_agreement is 0.") for reason in fault.reasons)
    assert {name: variant.verdict for name, variant in variants.items()} == dict.fromkeys(
        ("fp16", "kv_int8", "kv_fp8", "w8a16_kv_int8"), "passed"
    )
    # Two caches, and 2 x (q, k, v, out, gate, up, down); the head stays, as in ModelOpt's presets.
    assert (variants["kv_int8"].coverage.asked, variants["kv_int8"].coverage.ran) == (2, 2)
    assert (variants["w8a16_kv_int8"].coverage.asked, variants["w8a16_kv_int8"].coverage.ran) == (16, 16)
    assert (fault.coverage.asked, fault.coverage.ran) == (16, 16)
    manifest = json.loads((folder / "engines/cosyvoice2_llm/fp16/manifest.json").read_text())
    assert manifest["comparison"]["task_metrics"]["perplexity_ratio_to_model"] == pytest.approx(1, abs=0.01)


def test_text_marks_and_speech_are_one_table_and_the_head_speaks_speech(tmp_path: Path) -> None:
    with module_of("cosyvoice2/llm", "speech_lm") as module:
        state = llm_state(module)
        torch.save(state, tmp_path / "llm.pt")
        decoder = module.speech_lm([tmp_path / "llm.pt"], **LLM)
        third = {
            name: tensor for name, tensor in state.items() if name not in ("llm_embedding.weight", "llm_decoder.bias")
        }
        third |= {name: torch.zeros(6761, 128) for name in ("speech_embedding.weight", "llm_decoder.weight")}
        torch.save(third, tmp_path / "third.pt")
        newer = module.speech_lm([tmp_path / "third.pt"], further=200, marks=False, head_bias=False, **LLM)
        with pytest.raises(ModelError, match=r"missing llm_embedding\.weight; missing llm_decoder\.bias"):
            module.speech_lm([tmp_path / "third.pt"], **LLM)
    table = decoder.get_input_embeddings().weight
    torch.testing.assert_close(table[6561], state["speech_embedding.weight"][6561])
    torch.testing.assert_close(table[6564:6566], state["llm_embedding.weight"])
    torch.testing.assert_close(table[6566 + 7], state["llm.model.model.embed_tokens.weight"][7])
    assert decoder.lm_head.weight.shape == (6564, 128)
    torch.testing.assert_close(decoder.lm_head.bias, state["llm_decoder.bias"])
    assert (len(newer.get_input_embeddings().weight), newer.lm_head.bias) == (6761 + LLM["text"], None)


# What goes with them


def test_speakers_and_configuration_go_with_the_engine_and_build_nothing_anew(folder: Path) -> None:
    model = write_speech_tokenizer(folder / "speech_tokenizer_v2.onnx")
    recorded = record_spectrograms(folder / "spectrograms")
    torch.save({"one": {"embedding": torch.randn(1, 192)}}, folder / "spk2info.pt")
    (folder / "cosyvoice2.yaml").write_text("sample_rate: 24000\nllm: !new:cosyvoice.llm.llm.Qwen2LM {}\n")
    beside = f"companions={listed(folder / 'spk2info.pt', folder / 'cosyvoice2.yaml')}"
    engines = folder / "engines/cosyvoice2_speech_tokenizer/fp32"
    for more in ([], [beside]):
        report = build(
            RECIPES / "cosyvoice2/speech_tokenizer",
            sets=[*onnx_sets(model, recorded), *more],
            variants=["fp32"],
            store=folder / "store",
            output=folder / "engines",
        )
    assert report.steps_run == 0
    assert Path(report.variants[0].engine).name not in ("spk2info.pt", "cosyvoice2.yaml")
    files = json.loads((engines / "manifest.json").read_text())["files"]
    for name in ("spk2info.pt", "cosyvoice2.yaml"):
        content = (engines / name).read_bytes()
        assert content == (folder / name).read_bytes()
        assert files[name]["sha256"] == hashlib.sha256(content).hexdigest()
    torch.save({"run": print}, folder / "spk2info.pt")
    with pytest.raises(DataError, match=r"spk2info\.pt holds more than data: it names __builtin__ print"):
        built(folder, "cosyvoice2/speech_tokenizer", [*onnx_sets(model, recorded), beside], "fp32")
    assert (engines / "cosyvoice2.yaml").is_file(), "what was there stays"


def test_what_a_system_is_given_while_it_speaks_is_what_its_recipes_read(tmp_path: Path) -> None:
    """The hooks alone, on an object with CosyVoice2's parts: nothing of CosyVoice is installed here."""
    seen: list[str] = []

    class Part(torch.nn.Module):
        def forward(self, *args: torch.Tensor, streaming: bool = False) -> torch.Tensor:
            seen.append("estimator")
            return args[0]

        def inference(self, speech_feat: torch.Tensor, cache_source: torch.Tensor) -> None:
            seen.append("vocoder")

    class Session:
        def run(self, outputs: Any, feed: dict[str, Any]) -> None:
            seen.append("session")

    def speak(**given: Any) -> Iterator[int]:
        yield from (11, 12)

    flow = SimpleNamespace(decoder=SimpleNamespace(estimator=Part()))
    model = SimpleNamespace(flow=flow, hift=Part(), llm=SimpleNamespace(inference=speak))
    frontend = SimpleNamespace(campplus_session=Session(), speech_tokenizer_session=Session())
    with module_of("cosyvoice2", "record") as record:
        record.Recorder(tmp_path).listen(SimpleNamespace(model=model, frontend=frontend))
    wide = torch.zeros(2, 80, 9)
    model.flow.decoder.estimator(wide, wide[:, :1], wide, wide[:, 0, 0], wide[..., 0], wide, streaming=True)
    model.hift.inference(speech_feat=wide[:1], cache_source=torch.ones(1, 1, 960))
    frontend.campplus_session.run(None, {"input": np.zeros((1, 9, 80), np.float32)})
    frontend.speech_tokenizer_session.run(None, {"feats": np.zeros((1, 128, 16)), "feats_length": np.array([16])})
    tokens = {
        name: torch.tensor([ids])
        for name, ids in (("prompt_text", [1]), ("text", [2, 3]), ("prompt_speech_token", [9]))
    }
    assert list(model.llm.inference(**tokens)) == [11, 12]
    assert seen == ["estimator", "vocoder", "session", "session"]
    for recipe in ("flow", "hift", "speaker_encoder", "speech_tokenizer", "llm"):
        shapes = load(RECIPES / "cosyvoice2" / recipe).recipe.shapes
        with np.load(tmp_path / recipe / "000001.npz") as arrays:
            if recipe == "llm":
                assert arrays["input_ids"].tolist() == [[6564, 6567, 6568, 6569, 6565, 9, 11, 12]]
                continue
            assert {name: array.ndim for name, array in arrays.items()} == {
                name: len(spec.dims) for name, spec in shapes.inputs.items()
            }
            if recipe == "hift":
                assert arrays["cached"].ravel().tolist() == [1, 1] + 7 * [0]
                assert arrays["cache"][0, :3].sum() == 960
