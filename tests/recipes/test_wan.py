"""Wan's three networks, small: every format, both spellings of the weights, a planted fault for each gate."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from trtbuild.core.errors import ModelError
from trtbuild.core.report import BuildReport
from trtbuild.pipeline.build import build

WAN = Path(__file__).parents[2] / "recipes" / "wan"
QUICK = ["data.calibration=8", "data.evaluation=4", "measure.runs=3", "engine.tactics=default", "gates.pays='no'"]
RANDOM = "model.factory.arguments={size: small, weights: random}"
DIT = [
    "shapes.inputs.hidden_states.dims=[batch, 16, 2, 4, 6]",
    "shapes.inputs.encoder_hidden_states.dims=[batch, 12, 64]",
    "data.arguments={latent: [16, 2, 4, 6], text: [12, 64]}",
]
CLIP = [
    "shapes.inputs.pixel_values.dims=[batch, 3, 56, 56]",
    "data.generator=clip_vision:gradients",
    "data.arguments={side: 56}",
]
UMT5 = ["shapes.inputs.input_ids.dims=[batch, 16]", "shapes.inputs.attention_mask.dims=[batch, 16]"]


def module(folder: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, WAN / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tokenizer and prompts, as `data` takes them."""
    folder = tmp_path_factory.mktemp("prompts")
    words = [f"word{number}" for number in range(200)]
    tokenizer = Tokenizer(
        models.WordLevel({"<pad>": 0, "<unk>": 1} | {word: i + 2 for i, word in enumerate(words)}, "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    lines = [" ".join(words[(7 * line + 3 * place) % 200] for place in range(5 + line % 9)) for line in range(60)]
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n")
    files = json.dumps([str(folder / "tokenizer.json"), str(folder / "prompts.txt")])
    return [
        f"data.files={files}",
        "data.arguments={tokenizer: tokenizer.json, max_length: 16, padding: max_length, batch: 2, pad_token: '<pad>'}",
    ]


def built(folder: str, sets: list[str], place: Path, variants: list[str] | None = None) -> BuildReport:
    return build(
        WAN / folder, sets=[*QUICK, *sets], variants=variants or [], store=place / "store", output=place / "out"
    )


def check(report: BuildReport, asked: dict[str, int]) -> None:
    """Every variant passed, and runs what it was asked for."""
    for variant in report.variants:
        assert variant.verdict == "passed", (variant.name, variant.reasons)
        coverage = variant.coverage
        assert (coverage.asked, coverage.inserted, coverage.ran) == (asked[variant.name],) * 3, variant.name


def test_the_transformer_in_every_format(tmp_path: Path) -> None:
    report = built("dit", [RANDOM, *DIT], tmp_path)
    check(report, {"fp16": 0, "fp8": 24, "int8_sq": 20, "int4": 20})  # 2 blocks of 10 linears, and 2 attentions in FP8


def test_the_transformer_that_sees_a_picture(tmp_path: Path) -> None:
    shown = ["shapes.inputs.encoder_hidden_states_image={dtype: float32, dims: [batch, 257, 24]}"]
    sets = ["model.factory.arguments={size: small-clip, weights: random}", *DIT, *shown]
    sets.append("data.arguments={latent: [16, 2, 4, 6], text: [12, 64], picture: [257, 24]}")
    check(built("dit", sets, tmp_path, ["int8_sq"]), {"fp16": 0, "int8_sq": 24})  # keys and values of the picture too


def test_a_picture_counts_as_in_diffusers_own_attention(tmp_path: Path) -> None:
    own = module("dit", "wan_dit")
    ours = own.transformer(size="small-clip", weights="random")
    theirs = WanTransformer3DModel(**own.SIZES["small-clip"]).eval()
    theirs.load_state_dict(ours.state_dict())
    names = {each: original("dit", {each: tensor}).popitem()[0] for each, tensor in ours.state_dict().items()}
    assert {own.diffusers_name(spelled): each for each, spelled in names.items()} == {each: each for each in names}
    latents, text, shown = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 512, 64), torch.randn(1, 257, 24)
    with torch.inference_mode():
        found = ours(latents, torch.tensor([500.0]), text, shown)
        expected = theirs(latents, torch.tensor([500.0]), text, shown, return_dict=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_text_encoder_in_every_format(tmp_path: Path, prompts: list[str]) -> None:
    report = built("umt5", [RANDOM, *UMT5, *prompts], tmp_path)
    asked = {variant.name: variant.coverage.asked for variant in report.variants}
    assert asked["int8_sq"] == asked["w8a16"] == 14  # 2 blocks of q, k, v, o and three of the feed-forward
    check(report, asked)


def test_the_picture_encoder_in_every_format(tmp_path: Path) -> None:
    report = built("clip", [RANDOM, *CLIP], tmp_path)
    check(report, {"fp16": 0, "fp8": 14, "int8_sq": 12, "w8a16": 12})


@pytest.mark.parametrize("folder", ["dit", "umt5", "clip"])
def test_a_loud_neuron_fails_the_gate_of_int8_and_not_of_smoothquant(
    tmp_path: Path, prompts: list[str], folder: str
) -> None:
    own = {"dit": DIT, "umt5": [*UMT5, *prompts], "clip": CLIP}[folder]
    sets = [
        "model.factory.arguments={size: small, weights: random, outlier: 3000}",
        "variants.int8={quantize: {format: int8}}",
        *own,
    ]
    found = {variant.name: variant for variant in built(folder, sets, tmp_path, ["int8", "int8_sq"]).variants}
    assert found["int8"].verdict == "failed"
    assert any("cosine_min" in reason for reason in found["int8"].reasons), found["int8"].reasons
    assert found["int8_sq"].verdict == "passed", found["int8_sq"].reasons


ORIGINAL = {
    "dit": [
        (r"^condition_embedder\.time_embedder\.linear_(\d)", lambda m: f"time_embedding.{2 * int(m[1]) - 2}"),
        (r"^condition_embedder\.text_embedder\.linear_(\d)", lambda m: f"text_embedding.{2 * int(m[1]) - 2}"),
        (r"^condition_embedder\.time_proj", "time_projection.1"),
        (r"^condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
        (r"^condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
        (r"add_(k|v)_proj", r"\1_img"),
        (r"norm_added_k", "norm_k_img"),
        (r"^scale_shift_table", "head.modulation"),
        (r"^proj_out", "head.head"),
        (r"scale_shift_table", "modulation"),
        (r"norm2", "norm3"),
        (r"attn1\.", "self_attn."),
        (r"attn2\.", "cross_attn."),
        (r"to_out\.0", "o"),
        (r"to_([qkv])\.", r"\1."),
        (r"ffn\.net\.0\.proj", "ffn.0"),
        (r"ffn\.net\.2", "ffn.2"),
    ],
    "umt5": [
        (r"^shared", "token_embedding"),
        (r"^encoder\.final_layer_norm", "norm"),
        (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm", r"blocks.\1.norm1"),
        (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm", r"blocks.\1.norm2"),
        (r"^encoder\.block\.(\d+)\..*relative_attention_bias", r"blocks.\1.pos_embedding.embedding"),
        (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention", r"blocks.\1.attn"),
        (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0", r"blocks.\1.ffn.gate.0"),
        (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1", r"blocks.\1.ffn.fc1"),
        (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo", r"blocks.\1.ffn.fc2"),
    ],
    "clip": [
        (r"^embeddings\.class_embedding", "visual.cls_embedding"),
        (r"^embeddings\.position_embedding\.weight", "visual.pos_embedding"),
        (r"^embeddings\.", "visual."),
        (r"^pre_layrnorm", "visual.pre_norm"),
        (r"^post_layernorm", "visual.post_norm"),
        (r"^encoder\.layers\.", "visual.transformer."),
        (r"layer_norm", "norm"),
        (r"self_attn\.out_proj", "attn.proj"),
        (r"mlp\.fc1", "mlp.0"),
        (r"mlp\.fc2", "mlp.2"),
    ],
}
"""From our names to those of Wan's own checkpoints, written without a look at the recipes' own rules."""
FACTORIES = {"dit": ("wan_dit", "transformer"), "umt5": ("umt5", "encoder"), "clip": ("clip_vision", "encoder")}


def original(folder: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint as Wan's own repository would save it."""
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in ORIGINAL[folder]:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901 - one rule after the other
        found[name] = tensor.clone()
    for name in [name for name in found if name.endswith(".self_attn.q_proj.weight") or name.endswith("q_proj.bias")]:
        kind = name.rpartition(".")[2]
        layer = name.removesuffix(f".self_attn.q_proj.{kind}")
        parts = [found.pop(f"{layer}.self_attn.{each}_proj.{kind}") for each in "qkv"]
        found[f"{layer}.attn.to_qkv.{kind}"] = torch.cat(parts)
    if folder == "clip":
        found["visual.cls_embedding"] = found["visual.cls_embedding"].reshape(1, 1, -1)
        found["visual.pos_embedding"] = found["visual.pos_embedding"][None]
        found["textual.head.weight"], found["log_scale"] = torch.ones(1), torch.ones(1)
        found["visual.transformer.2.mlp.0.bias"] = torch.ones(256)  # the last layer, which nobody needs
    if folder == "umt5":
        found.pop("encoder.embed_tokens.weight", None)
    return found


@pytest.mark.parametrize("folder", FACTORIES)
def test_both_spellings_of_the_weights_load(tmp_path: Path, folder: str) -> None:
    name, entry = FACTORIES[folder]
    factory = getattr(module(folder, name), entry)
    expected = factory(size="small", weights="random").state_dict()
    spelled = {"ours": {each: tensor.clone() for each, tensor in expected.items()}, "wan": original(folder, expected)}
    for kind, state in spelled.items():
        save_file(state, tmp_path / f"{kind}.safetensors")
        torch.save(state, tmp_path / f"{kind}.pth")
        for file in (f"{kind}.safetensors", f"{kind}.pth"):
            loaded = factory(files=[str(tmp_path / file)], size="small").state_dict()
            assert loaded.keys() == expected.keys()
            for each, tensor in expected.items():
                torch.testing.assert_close(loaded[each], tensor)
    state = spelled["wan"]
    state.pop(next(each for each in state if "attn" in each and each.endswith("weight")))
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(ModelError, match=r"does not fit .*: missing "):
        factory(files=[str(tmp_path / "broken.safetensors")], size="small")
    with pytest.raises(ModelError, match="needs its checkpoint"):
        factory(size="small")
