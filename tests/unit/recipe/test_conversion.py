"""Configurations of LightX2V and LightTTS as recipes: right shapes and formats, and a reason where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trtbuild.core.errors import RecipeError, StoreError
from trtbuild.pipeline.convert import convert
from trtbuild.recipe.expand import variants
from trtbuild.recipe.load import LoadedRecipe, load

VIDEO = {"target_video_length": 81, "target_height": 480, "target_width": 832, "infer_steps": 4, "enable_cfg": False}
KIVI = {"kv_quant": {"quant_scheme": "kivi", "k_cache_type": "int8", "v_cache_type": "int8", "group_size": 64}}
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "wan_moe_i2v_distill_quant.json": (
        VIDEO
        | {"target_height": 720, "target_width": 1280, "text_len": 512, "use_image_encoder": False}
        | {"dit_quantized": True, "dit_quant_scheme": "fp8-sgl", "t5_quantized": True, "t5_quant_scheme": "fp8-sgl"}
        | {"t5_quantized_ckpt": "t5.pth", "high_noise_quantized_ckpt": "h.st", "low_noise_quantized_ckpt": "l.st"},
        "",
    ),
    "hy15_t2v_480p_fp8.json": (
        {"transformer_model_name": "480p_t2v", "target_video_length": 121, "vae_stride": [4, 16, 16]}
        | {"dit_quantized_ckpt": "q.st", "dit_quantized": True, "dit_quant_scheme": "fp8-sgl"},
        "HunyuanVideo",
    ),
    "lingbot_fast_i2v_kv_kiviquant.json": (VIDEO | {"ar_config": {"local_attn_size": 21} | KIVI}, "autoregressive"),
    "wan_t2v_1_3_t5_quant.json": (
        VIDEO | {"t5_quantized": True, "t5_quant_scheme": "fp8-intel-xpu", "t5_quantized_ckpt": "t5.pth"},
        "",
    ),
    "wan_i2v_q4_k.json": (VIDEO | {"dit_quantized": True, "dit_quant_scheme": "gguf-Q4_K_S"}, "k-quants"),
    "wan_i2v.json": (
        VIDEO | {"dit_quantized_ckpt": "int8", "dit_quantized": True, "dit_quant_scheme": "int8-vllm"},
        "",
    ),
    "wan_i2v_q8f.json": (
        VIDEO
        | {"dit_quantized": True, "dit_quant_scheme": "fp8-q8f", "t5_quantized": True, "t5_quant_scheme": "fp8-q8f"}
        | {"clip_quantized": True, "clip_quant_scheme": "fp8-q8f"},
        "",
    ),
    "wan_i2v_torchao.json": (
        VIDEO
        | {"dit_quantized": True, "dit_quant_scheme": "int8-torchao", "t5_quantized": True}
        | {"t5_quant_scheme": "int8-torchao", "clip_quantized": True, "clip_quant_scheme": "int8-torchao"},
        "",
    ),
    "seko_talk_ar_kv_kiviquant.json": (
        VIDEO | {"ar_config": KIVI, "adapter_quantized": True, "adapter_quant_scheme": "fp8-sgl"},
        "autoregressive",
    ),
    "wan_t2v_sf_kv_kiviquant.json": (VIDEO | {"ar_config": KIVI, "dit_original_ckpt": "dmd.pt"}, "autoregressive"),
    "wan_t2v_sf_kv_kiviquant_14b.json": (VIDEO | {"ar_config": KIVI, "dit_quantized": True}, "autoregressive"),
}
"""The keys of each `configs/**/*quant*` and `configs/quantization/**` of LightX2V, and why it is refused if it is."""


def written(folder: Path, config: dict[str, Any], name: str = "wan_t2v.json") -> dict[str, LoadedRecipe]:
    (folder / name).write_text(json.dumps(config))
    files, _ = convert("lightx2v", str(folder / name), folder / "out")
    return {file.parent.name: load(file) for file in files}


@pytest.mark.parametrize("name", [name for name, (_, refused) in CONFIGS.items() if refused])
def test_what_has_no_recipe_is_refused_with_the_reason_and_writes_nothing(tmp_path: Path, name: str) -> None:
    config, refused = CONFIGS[name]
    with pytest.raises(RecipeError, match=refused) as caught:
        written(tmp_path, config, name)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, (_, refused) in CONFIGS.items() if not refused])
def test_what_has_one_becomes_recipes_that_load_and_say_what_is_approximated(tmp_path: Path, name: str) -> None:
    config, _ = CONFIGS[name]
    for folder, recipe in written(tmp_path, config, name).items():
        part = "dit" if folder.startswith("dit") else {"umt5": "t5"}.get(folder, folder)
        found = variants(recipe.recipe)
        scheme = config.get(f"{part}_quant_scheme")
        assert list(found) == ["fp16", *([scheme] if scheme else [])]
        if scheme:
            quantize = found[scheme].quantize
            assert quantize is not None
            assert quantize.format == ("int8_sq" if scheme.startswith("int8") else "fp8_pc_pt")
            (comment,) = (line for line in recipe.file.read_text().splitlines() if "approximated" in line)
            assert comment.startswith(f"  # LightX2V's {scheme}, approximated: ")
            assert "one calibrated activation scale a tensor instead of one a token" in comment


def test_two_transformers_share_the_steps_of_wan_2_2(tmp_path: Path) -> None:
    found = written(tmp_path, CONFIGS["wan_moe_i2v_distill_quant.json"][0], "wan_moe_i2v_distill_quant.json")
    assert list(found) == ["dit_high_noise", "dit_low_noise", "umt5"]
    for folder in ("dit_high_noise", "dit_low_noise"):
        recipe = found[folder].recipe
        assert recipe.model.factory is not None
        assert recipe.model.factory.arguments == {"size": "14B-i2v"}
        assert recipe.model.factory.files == [
            f"model/{folder.removeprefix('dit_')}_model/diffusion_pytorch_model*.safetensors"
        ]
        assert recipe.shapes.inputs["hidden_states"].dims == ["batch", 36, 21, 90, 160]
        assert recipe.data.arguments == {"latent": [36, 21, 90, 160], "text": [512, 4096]}
        assert "is not read: the original weights are quantized here" in found[folder].file.read_text()


def test_wan_2_1_from_a_picture_has_its_encoder_too(tmp_path: Path) -> None:
    found = written(tmp_path, CONFIGS["wan_i2v_torchao.json"][0], "wan_i2v_torchao.json")
    assert list(found) == ["dit", "umt5", "clip"]
    recipe = found["dit"].recipe
    assert recipe.model.factory is not None
    assert recipe.model.factory.arguments == {"size": "14B-i2v-clip"}
    assert recipe.shapes.inputs["encoder_hidden_states_image"].dims == ["batch", 257, 1280]


def test_the_command_line_says_what_the_file_does_not(tmp_path: Path) -> None:
    config = VIDEO | {"dit_quantized": True, "dit_quant_scheme": "int4-g128-marlin"}
    (tmp_path / "mine.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="does not say its model and task"):
        convert("lightx2v", str(tmp_path / "mine.json"), tmp_path / "out")
    command = (
        "python -m lightx2v.infer --model_cls wan2.1 --task t2v --model_path /models/Wan2.1-T2V-1.3B "
        f"--config_json {tmp_path / 'mine.json'} --prompt 'a cat'"
    )
    files, remarks = convert("lightx2v", command, tmp_path / "out")
    recipe = load(files[0]).recipe
    assert recipe.model.factory is not None
    assert recipe.model.factory.arguments == {"size": "1.3B"}
    assert recipe.model.factory.files == ["/models/Wan2.1-T2V-1.3B/diffusion_pytorch_model*.safetensors"]
    quantize = variants(recipe)["int4-g128-marlin"].quantize
    assert quantize is not None
    assert (quantize.format, quantize.block_size) == ("int4", 128)
    assert remarks == ["LightX2V's int4-g128-marlin, exactly so: blocks of 128"]
    with pytest.raises(StoreError, match="is there already"):
        convert("lightx2v", command, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        ({"target_height": 500}, "81 frames of 500 x 832 are no latents", "496 x 832"),
        ({"target_height": None}, "one resolution", "480"),
        ({"dit_quantized": True, "dit_quant_scheme": "mxfp4"}, "no MXFP4 product", "int4_awq"),
        ({"dit_quantized": True, "dit_quant_scheme": "fp8-sgll"}, "no format", "fp8-sgl"),
        ({"model_cls": "hunyuan_video_1.5"}, "no recipe for model_cls hunyuan_video_1.5", "wan2.1"),
    ],
)
def test_a_configuration_that_cannot_be_says_why(tmp_path: Path, change: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        written(tmp_path, VIDEO | change)
    assert hint in caught.value.hint


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        convert("lightx2v", str(tmp_path / "none.json"), tmp_path / "out")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(RecipeError, match="is no configuration"):
        convert("lightx2v", str(tmp_path / "list.json"), tmp_path / "out")


SERVER = "python -m light_tts.server.api_server --model_dir /models/CosyVoice2-0.5B"


def test_all_modes_of_a_command_line_are_one_variant(tmp_path: Path) -> None:
    command = f"{SERVER} --mode triton_int8kv triton_int8weight triton_flashdecoding --max_req_total_len 4096"
    files, remarks = convert("lighttts", command, tmp_path)
    assert [file.parent.name for file in files] == ["llm", "flow"]
    recipe = load(files[0]).recipe
    found = variants(recipe)
    assert list(found) == ["fp16", "triton_int8weight-triton_int8kv"]
    both = found["triton_int8weight-triton_int8kv"]
    assert both.quantize is not None
    assert (both.quantize.format, both.kv_cache.mode) == ("w8a16", "int8")
    assert recipe.decoder is not None
    assert recipe.decoder.capacity == 4096
    assert "kv_bytes_ratio" in recipe.gates.accuracy
    assert "triton_flashdecoding is an attention kernel" in files[0].read_text()
    assert len(remarks) == 1
    assert list(variants(load(files[1]).recipe)) == ["fp16"]


def test_a_cache_that_is_not_quantized_is_not_held_to_be(tmp_path: Path) -> None:
    files, _ = convert("lighttts", f"{SERVER} --mode ppl_int4weight --data_type float32 --load_trt ''", tmp_path)
    assert len(files) == 1
    recipe = load(files[0]).recipe
    assert list(variants(recipe)) == ["fp32", "ppl_int4weight"]
    assert "kv_bytes_ratio" not in recipe.gates.accuracy


def test_cosyvoice3_is_known_by_its_folder_and_its_flow_stays_in_fp32(tmp_path: Path) -> None:
    command = "python -m light_tts.server.api_server --model_dir models/Fun-CosyVoice3-0.5B-2512 --mode triton_int8kv"
    files, _ = convert("lighttts", command, tmp_path / "out")
    language_model, flow = (load(file).recipe for file in files)
    assert (language_model.recipe, flow.recipe) == ("cosyvoice3-llm", "cosyvoice3-flow")
    assert list(variants(flow)) == ["fp32"]
    assert flow.model.factory is not None
    place = (files[1].parent / flow.model.factory.files[0]).resolve()
    assert place == (Path.cwd() / "models/Fun-CosyVoice3-0.5B-2512/flow.pt").resolve()


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        ("--mode flashllm-w6a16", "6-bit", "w8a16"),
        ("--mode triton_int8kw", "no format", "triton_int8kv"),
        ("--mode triton_int8kv ppl_int8kv", "at once", "one of them"),
        ("--data_type int3", "none of", ""),
    ],
)
def test_a_mode_that_cannot_be_says_why(tmp_path: Path, arguments: str, said: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        convert("lighttts", f"{SERVER} {arguments}", tmp_path / "out")
    assert hint in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_no_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no --model_dir"):
        convert("lighttts", "python -m light_tts.server.api_server", tmp_path)
