"""What each mode of the KV cache costs tinyllama in quality, and saves in memory, in ONNX Runtime on this machine.

`python benchmarks/tinyllama.py` trains the model where the user's cache has none (two to three minutes), exports it
once, attaches a cache in each mode, and writes benchmarks/tinyllama.json. Everything is judged on documents that the
model was not trained on, with weights and arithmetic in FP32, so that the cache alone makes the difference.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from transformers import LlamaForCausalLM

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes" / "tinyllama"))

import tinyllama  # noqa: E402
from train import train_once  # noqa: E402

from trtbuild.backends.decoder.export import as_decoder  # noqa: E402
from trtbuild.backends.decoder.ranges import observe_ranges  # noqa: E402
from trtbuild.backends.onnxruntime.backend import OnnxRuntime  # noqa: E402
from trtbuild.backends.pytorch import PyTorch  # noqa: E402
from trtbuild.core import machine  # noqa: E402
from trtbuild.core.artifacts import OnnxModel  # noqa: E402
from trtbuild.core.kv_cache import KvCache  # noqa: E402
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec  # noqa: E402
from trtbuild.decoding.cache_agreement import compare_caches  # noqa: E402
from trtbuild.decoding.decoder import Decoder  # noqa: E402
from trtbuild.decoding.free_running import compare_free  # noqa: E402
from trtbuild.decoding.generation import Generation  # noqa: E402
from trtbuild.decoding.likelihood import perplexity  # noqa: E402
from trtbuild.decoding.teacher_forcing import compare_forced  # noqa: E402
from trtbuild.graph import document  # noqa: E402
from trtbuild.graph.kv_cache.attach import attach  # noqa: E402

MODES: dict[str, dict[str, Any]] = {
    "fp16": {"mode": "float", "float_type": "float16"},
    "fp32": {"mode": "float", "float_type": "float32"},
    "int8": {"mode": "int8"},
    "int8_static": {"mode": "int8_static"},
    "fp8": {"mode": "fp8"},
}
PASSAGES, FORCED, PROMPT = 128, 32, 64
"""Passages for perplexity; of them, how many are teacher-forced; and after how many tokens the steps begin."""


def main() -> None:
    """Measure every mode against the FP16 cache and write the numbers."""
    folder = train_once(tinyllama.model_folder())
    with tempfile.TemporaryDirectory() as scratch:
        exported = _export(folder, Path(scratch))
        ranges = observe_ranges(_module(folder), tinyllama.passages("calibration", 64))
        reference = _decoder(exported, Path(scratch) / "reference", MODES["fp16"], ranges)
        found = {}
        for name, mode in MODES.items():
            decoder = _decoder(exported, Path(scratch) / name, mode, ranges)
            found[name] = _measured(decoder, reference)
            print(name, json.dumps(found[name]), flush=True)
    for numbers in found.values():
        numbers["perplexity_ratio"] = round(numbers["perplexity"] / found["fp16"]["perplexity"], 5)
    facts = {
        "processor": machine.processor(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "training": json.loads((folder / "training.json").read_text()),
    }
    (ROOT / "benchmarks" / "tinyllama.json").write_text(json.dumps(facts | {"modes": found}, indent=1) + "\n")


def _module(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _export(folder: Path, scratch: Path) -> OnnxModel:
    shapes = Shapes(
        inputs={
            "input_ids": TensorSpec(dtype="int64", dims=["batch", "tokens"]),
            "lengths": TensorSpec(dtype="int64", dims=["batch"]),
        },
        axes={
            "batch": AxisRange(min=1, opt=2, max=64),
            "tokens": AxisRange(min=1, opt=8, max=tinyllama.CONTEXT),
        },
    )
    exported = OnnxModel(scratch / "exported")
    exported.path.mkdir()
    PyTorch().export(as_decoder(_module(folder)), shapes, 21, exported.main)
    return exported


def _decoder(exported: OnnxModel, folder: Path, mode: dict[str, Any], ranges: Any) -> Decoder:
    model = document.load(exported.main)
    layout: KvCache = attach(model, tinyllama.CONTEXT, ranges=ranges, **mode)
    folder.mkdir()
    document.save(model, OnnxModel(folder))
    return Decoder(OnnxRuntime().open_model(OnnxModel(folder), 1), layout)


def _measured(decoder: Decoder, reference: Decoder) -> dict[str, Any]:
    texts = [batch["input_ids"] for batch in tinyllama.passages("evaluation", PASSAGES)]
    forced = compare_forced(decoder, reference, texts[: FORCED // 8], PROMPT).means
    for each in (decoder, reference):
        each.start(8)
        each.advance(texts[0])
    caches = compare_caches(decoder, reference)
    prompts = [text[0, :PROMPT].tolist() for text in texts[:8]]
    free = compare_free(decoder, reference, prompts, tinyllama.CONTEXT - PROMPT)
    generation = Generation(decoder, prompts[:1], max_new_tokens=128)
    text = bytes(token for _, token in generation if token < 256).decode(errors="replace")
    speed = generation.speed()
    return {
        "perplexity": round(perplexity(decoder, texts), 5),
        **{name: round(value, 6) for name, value in forced.items()},
        "key_cosine": [round(layer.key_cosine, 6) for layer in caches],
        "value_cosine": [round(layer.value_cosine, 6) for layer in caches],
        "free_running_tokens": free.mean_length,
        "free_running_identical": free.identical,
        "cache_bytes_ratio": round(speed.cache_bytes / speed.cache_bytes_fp16, 5),
        "tokens_per_s": round(speed.decode_tokens_per_s, 1),
        "text": text,
    }


if __name__ == "__main__":
    main()
