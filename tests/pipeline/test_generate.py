"""Text from a decoder that was exported from transformers, as it is and as a built engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trtbuild.backends.decoder.export import as_decoder
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.backends.pytorch import PyTorch
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import CacheMode
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.decoding.sampling import Sampling
from trtbuild.graph import document
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.quantize import quantize_cache
from trtbuild.pipeline.generate import generate
from trtbuild.stages.build import BuildOptions

CAPACITY = 48
PROMPTS = ["A first prompt", "B", "and a third"]
SHAPES = Shapes(
    inputs={
        "input_ids": TensorSpec(dtype="int64", dims=["batch", "tokens"]),
        "lengths": TensorSpec(dtype="int64", dims=["batch"]),
    },
    axes={"batch": AxisRange(min=1, opt=2, max=8), "tokens": AxisRange(min=1, opt=8, max=CAPACITY)},
)


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def exported(llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    model = OnnxModel(tmp_path_factory.mktemp("exported"))
    same = LlamaForCausalLM(llama.config).eval()
    same.load_state_dict(llama.state_dict())
    PyTorch().export(as_decoder(same), SHAPES, 21, model.main)
    return model


def decoder(exported: OnnxModel, folder: Path, mode: CacheMode) -> Path:
    model = document.load(exported.main)
    layout = quantize_cache(model, attach(model, CAPACITY), mode)
    folder.mkdir()
    document.save(model, OnnxModel(folder))
    layout.write(folder)
    return folder


def of_transformers(llama: LlamaForCausalLM, prompt: str, tokens: int) -> list[int]:
    ids = torch.tensor([list(prompt.encode())])
    return llama.generate(ids, max_new_tokens=tokens, do_sample=False, use_cache=True)[0, ids.shape[1] :].tolist()


def test_greedy_text_is_that_of_transformers(llama: LlamaForCausalLM, exported: OnnxModel, tmp_path: Path) -> None:
    report = generate(decoder(exported, tmp_path / "float", "float"), PROMPTS, max_new_tokens=16, tokenizer="bytes")
    assert [text.tokens for text in report.texts] == [of_transformers(llama, prompt, 16) for prompt in PROMPTS]
    assert len({tuple(text.tokens) for text in report.texts}) == 3
    assert report.cache_bytes == 2 * report.cache_bytes_fp16


@pytest.mark.parametrize(("mode", "ratio"), [("int8", (16 + 2) / 32), ("fp8", 0.5)])
def test_a_quantized_cache_writes_the_same_alone_and_in_a_batch(
    exported: OnnxModel, tmp_path: Path, mode: CacheMode, ratio: float
) -> None:
    folder = decoder(exported, tmp_path / mode, mode)
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=1)
    pieces: dict[int, str] = {}
    together = generate(
        folder,
        PROMPTS,
        max_new_tokens=20,
        sampling=sampling,
        tokenizer="bytes",
        show=lambda row, piece: pieces.update({row: pieces.get(row, "") + piece}),
    )
    for row, prompt in enumerate(PROMPTS):
        alone = generate(
            folder,
            [prompt],
            max_new_tokens=20,
            sampling=Sampling(temperature=0.7, top_p=0.9, seed=1 + row),
            tokenizer="bytes",
        )
        assert alone.texts[0] == together.texts[row]
        assert pieces[row] == together.texts[row].text
    assert together.cache_bytes / together.cache_bytes_fp16 == pytest.approx(ratio)


def test_a_built_engine_writes_what_the_model_does(exported: OnnxModel, tmp_path: Path) -> None:
    folder = decoder(exported, tmp_path / "int8", "int8")
    caches = {}
    for layer in range(2):
        for part in ("key", "value"):
            caches[f"cache.{layer}.{part}"] = TensorSpec(dtype="int8", dims=["batch", 2, CAPACITY, 16])
            caches[f"cache.{layer}.{part}_scale"] = TensorSpec(dtype="float32", dims=["batch", 2, CAPACITY])
    engine = Engine(tmp_path / "engine")
    engine.path.mkdir()
    shapes = SHAPES.model_copy(update={"inputs": SHAPES.inputs | caches})
    OnnxRuntime().compile(OnnxModel(folder), shapes, BuildOptions(threads=1), engine)
    with pytest.raises(ModelError, match=r"cache\.json"):
        generate(engine.path, PROMPTS, tokenizer="bytes")
    shutil.copy(folder / "cache.json", engine.path)
    built = generate(engine.path, PROMPTS, max_new_tokens=12, tokenizer="bytes")
    plain = generate(folder, PROMPTS, max_new_tokens=12, tokenizer="bytes")
    assert [text.tokens for text in built.texts] == [text.tokens for text in plain.texts]
    assert np.isfinite(built.decode_tokens_per_s)
