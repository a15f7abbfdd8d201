"""Small Hugging Face decoders with random weights, one configuration per family, and a cache that is carried along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers

from trtbuild.backends.autocast import AutoCast
from trtbuild.backends.decoder.export import as_decoder
from trtbuild.backends.onnxruntime import sessions
from trtbuild.backends.pytorch import PyTorch
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.kv_cache import OUT, KvCache
from trtbuild.core.tensors import Shapes
from trtbuild.graph import canonical, document
from trtbuild.graph.always_float32 import always_float32
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.stand_in import conceal, reveal

Array = np.ndarray[Any, Any]

FLOAT8E4M3FN = 17
VOCABULARY = 96
POSITIONS = 64

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TYPES = ["sliding_attention", "full_attention"]

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 7},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 7, "layer_types": _TYPES},
    "phi": {},
    "phi3": {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    "stablelm": {"num_key_value_heads": 2},
}
"""What each family has of its own: grouped, multi-query and plain heads; windows; rotary and learned positions."""

SHAPES = Shapes.model_validate(
    {
        "inputs": {
            "input_ids": {"dtype": "int64", "dims": ["batch", "tokens"]},
            "lengths": {"dtype": "int64", "dims": ["batch"]},
        },
        "axes": {"batch": {"min": 1, "opt": 2, "max": 8}, "tokens": {"min": 1, "opt": 8, "max": POSITIONS}},
    }
)


def build(family: str, **settings: Any) -> Any:
    """A decoder of the family; its weights are large enough for its tokens to matter to each other."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**_COMMON, **FAMILIES.get(family, {}), **settings})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    return model


def token_ids(rows: int, tokens: int) -> Array:
    return np.random.default_rng(0).integers(3, VOCABULARY, (rows, tokens))


def logits_of(model: Any, ids: Array) -> Array:
    """What the model itself says, all tokens at once."""
    with torch.inference_mode():
        found: Array = model(input_ids=torch.from_numpy(ids), use_cache=False).logits.numpy()
        return found


def export(model: Any, path: Path, **settings: Any) -> Path:
    """The canonical graph, without a cache yet. The model's class changes."""
    raw = path.with_suffix(".raw.onnx")
    PyTorch().export(as_decoder(model, **settings), SHAPES, 21, raw)
    graph = document.load(raw)
    canonical.canonicalize(graph)
    document.ir.save(graph, path)
    return path


def lower(exported: Path, folder: Path, capacity: int, *, keep: bool = True) -> tuple[Path, KvCache]:
    """The decoder with a cache in FP16, lowered as the build does."""
    folder.mkdir()
    original = document.load(exported)
    cache = attach(original, capacity, "float16")
    concealed = document.load(exported)
    conceal(concealed, attach(concealed, capacity, "float16"))
    document.ir.save(concealed, folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    kept = always_float32(concealed.graph) if keep else []
    AutoCast().cast(OnnxModel(folder), "fp16", True, folder / "fp16.onnx", kept)
    lowered = document.load(folder / "fp16.onnx")
    canonical.canonicalize(lowered)
    reveal(lowered, original, cache)
    document.ir.save(lowered, folder / "cached.onnx")
    onnx.checker.check_model(folder / "cached.onnx", full_check=True)
    return folder / "cached.onnx", cache


class Rows:
    """A batch of rows in ONNX Runtime. The cache begins as NaN and other codes that must never be attended."""

    def __init__(self, path: Path, cache: KvCache, rows: int) -> None:
        self.session = sessions.load(path, 1)
        self.types = {tensor.name: tensor.dtype for layer in range(cache.layers) for tensor in cache.tensors(layer)}
        self.state = {
            tensor.name: _worst((rows, *tensor.row_shape), tensor.dtype)
            for layer in range(cache.layers)
            for tensor in cache.tensors(layer)
        }
        self.lengths = np.zeros(rows, np.int64)

    def read(self, ids: Array, counts: list[int] | None = None) -> Array:
        """Logits [rows, tokens, vocabulary] of the next tokens; `counts` says how many of each row's are real."""
        feed = {"input_ids": ids, "lengths": self.lengths, **self.state}
        values = {name: self._value(name, array) for name, array in feed.items()}
        names = [output.name for output in self.session.get_outputs()]
        found = dict(zip(names, self.session.run_with_ort_values(names, values), strict=True))
        self.state = {name: found[name + OUT].numpy() for name in self.state}
        self.lengths = self.lengths + (ids.shape[1] if counts is None else np.array(counts))
        logits: Array = found["logits"].numpy()
        return logits

    def _value(self, name: str, array: Array) -> onnxruntime.OrtValue:
        if self.types.get(name) == "float8e4m3fn":
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, FLOAT8E4M3FN)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _worst(shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "float8e4m3fn":
        return np.full(shape, 0x7F, np.uint8)
    return np.full(shape, -128 if dtype == "int8" else np.nan, dtype)


PROMPTS = [5, 11, 2]
STEPS = 16


def teacher_forced(path: Path, cache: KvCache, ids: Array, truth: Array) -> float:
    """Greatest relative L2 error of the logits over a ragged prefill of `PROMPTS` tokens and `STEPS` steps."""
    rows = Rows(path, cache, len(PROMPTS))
    padded = np.zeros((len(PROMPTS), max(PROMPTS)), np.int64)
    for row, count in enumerate(PROMPTS):
        padded[row, :count] = ids[row, :count]
    found = rows.read(padded, PROMPTS)
    errors = [_error(found[row, :count], truth[row, :count]) for row, count in enumerate(PROMPTS)]
    for _ in range(STEPS):
        here = rows.lengths
        found = rows.read(np.stack([ids[row, [at]] for row, at in enumerate(here)]))
        errors += [_error(found[row, 0], truth[row, at]) for row, at in enumerate(here)]
    return max(errors)


def _error(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
