"""Blocks in recipes of their own: what they bring is built, and what they keep high stays high."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from trtbuild.core.errors import RecipeError
from trtbuild.core.report import BuildReport
from trtbuild.pipeline.build import build
from trtbuild.recipe.expand import variants
from trtbuild.recipe.load import load
from trtbuild.recipe.shipped import shipped_blocks

QUICK = ["data.calibration=4", "data.evaluation=4", "measure.runs=3", "engine.tactics=default", "gates.pays='no'"]
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}

DECODER = """\
recipe: decoder
extends: [trtbuild://blocks/server_llm.yaml, trtbuild://blocks/memory_bound.yaml]
model: {huggingface: {folder: model}}
decoder: {capacity: 64, batch: {min: 1, opt: 2, max: 4}, prompt: 8, steps: 8, tokenizer: false}
data: {generator: "samples:tokens", calibration: 4, evaluation: 4}
gates: {accuracy: {logits_cosine: {min: 0.97}}}
variants: {w4a16: {gates: {accuracy: {logits_cosine: {min: 0.9}}}}}
"""
PICTURES = """\
recipe: pictures
extends: trtbuild://blocks/multimodal.yaml
model: {huggingface: {folder: model, class: CLIPVisionModelWithProjection, outputs: [image_embeds]}}
shapes:
  axes: {batch: {min: 1, opt: 2, max: 4}}
  inputs: {pixel_values: {dtype: float32, dims: [batch, 3, 32, 32]}}
data: {generator: "samples:pictures", calibration: 4, evaluation: 4}
gates: {accuracy: {cosine_min: {min: 0.98}}}
"""
SAMPLES = '''
import numpy as np

def tokens(split, count):
    """Random tokens, two rows a batch."""
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 2):
        yield {"input_ids": rng.integers(3, 96, (2, 24))}

def pictures(split, count):
    """Normal pixels, two rows a batch."""
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 2):
        yield {"pixel_values": rng.standard_normal((2, 3, 32, 32)).astype(np.float32)}
'''


def built(folder: Path, recipe: str, model: torch.nn.Module) -> BuildReport:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.1)
    model.save_pretrained(folder / "model")  # type: ignore[operator]
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "samples.py").write_text(SAMPLES)
    return build(folder, sets=QUICK, store=folder / "store", output=folder / "out")


def test_a_decoder_takes_the_blocks_of_servers_and_of_small_memories(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, vocab_size=96, num_key_value_heads=2, max_position_embeddings=64)
    report = built(tmp_path, DECODER, transformers.LlamaForCausalLM(config))
    found = {variant.name: variant for variant in report.variants}
    assert set(found) == {"fp16", "w8a8_kv_int8", "w8a8_kv_fp8", "w4a16"}
    for variant in report.variants:
        assert variant.verdict == "passed", (variant.name, variant.reasons)
        assert variant.coverage.asked == variant.coverage.inserted == variant.coverage.ran
    # Per layer q, k, v, o, gate and up, without down; and the cache of two layers. INT4 takes down as well.
    assert found["w8a8_kv_int8"].coverage.asked == 2 * 6 + 2
    assert found["w4a16"].coverage.asked == 2 * 7
    assert found["w8a8_kv_int8"].cache_bytes < 0.6 * found["fp16"].cache_bytes


def test_a_multimodal_encoder_keeps_its_projection_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**SIZES, image_size=32, patch_size=16, projection_dim=64)
    report = built(tmp_path, PICTURES, transformers.CLIPVisionModelWithProjection(config))
    (backbone,) = (variant for variant in report.variants if variant.name == "int8_backbone")
    assert backbone.verdict == "passed", backbone.reasons
    # The linears of two layers: without the head, and without the patch embedding, which stays high by itself.
    assert backbone.coverage.asked == backbone.coverage.ran == 2 * 6


def test_blocks_compose_with_every_shipped_decoder_and_are_no_recipes(tmp_path: Path) -> None:
    blocks = shipped_blocks()
    assert blocks == ["blocks/memory_bound.yaml", "blocks/multimodal.yaml", "blocks/server_llm.yaml"]
    (tmp_path / "recipe.yaml").write_text(
        f"recipe: mine\nextends: {json.dumps(['trtbuild://llm', *(f'trtbuild://{block}' for block in blocks)])}\n"
    )
    found = variants(load(tmp_path).recipe)
    assert {"kv_int8", "w8a8_kv_fp8", "w4a16", "int8_backbone"} <= set(found)
    assert found["w8a8_kv_int8"].quantize is not None
    assert found["w8a8_kv_int8"].quantize.exclude == ["*down_proj"]
    (tmp_path / "recipe.yaml").write_text("recipe: mine\nextends: trtbuild://blocks/memory_bound.yaml\n")
    with pytest.raises(RecipeError, match="model"):
        load(tmp_path)
