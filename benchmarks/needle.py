"""What each mode of the KV cache does to retrieval at long context, in ONNX Runtime on this machine.

No small trained model finds needles, so this one is made by hand: a Llama of two layers whose first head looks one
token back and whose second finds the earlier place behind the same token and copies what followed (an induction head,
Olsson et al. 2022). In FP32 it finds every needle by construction, with a margin that is chosen to be narrow; what it
loses in another mode, that cache lost. `python benchmarks/needle.py` writes benchmarks/needle.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trtbuild.backends.decoder.export import as_decoder
from trtbuild.backends.decoder.ranges import observe_ranges
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.backends.pytorch import PyTorch
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.kv_cache import CacheFloat, CacheMode
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.decoding.decoder import Decoder
from trtbuild.decoding.needle import Trial, retrieval, trials
from trtbuild.graph import document
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.quantize import quantize_cache

ROOT = Path(__file__).parents[1]
CONTEXTS = (256, 1024, 4096)
HAY, ALPHABET, KEY = range(384), range(384, 511), 511
"""Tokens of the haystack, of values, and the key: a value's own tokens lead to the next."""
WIDTH, HEAD = 64, 128
"""Elements that a token is written in, and of a head: its slow half holds a token, its fast half a distance."""
LOOK_BACK, MATCH, SAY = 30.0, 6.0, 20.0
"""How sharply the first head picks the token before, how sharply the second a match, and how surely it speaks."""
MODES: dict[str, tuple[CacheFloat, CacheMode]] = {
    "fp32": ("float32", "float"),
    "fp16": ("float16", "float"),
    "int8": ("float32", "int8"),
    "int8_static": ("float32", "int8_static"),
    "fp8": ("float32", "fp8"),
}


def main() -> None:
    """Look for the same needles in every mode and write what was found."""
    haystack = np.random.default_rng(0).choice(np.array(HAY), 3 * max(CONTEXTS)).tolist()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        exported = OnnxModel(Path(scratch) / "exported")
        exported.path.mkdir()
        PyTorch().export(as_decoder(induction()), _shapes(), 21, exported.main)
        sample = np.array([haystack[:1024]])
        ranges = observe_ranges(induction(), [{"input_ids": sample}])
        for name, (floats, mode) in MODES.items():
            model = document.load(exported.main)
            layout = quantize_cache(model, attach(model, max(CONTEXTS) + 8, floats), mode, ranges)
            written = OnnxModel(Path(scratch) / name)
            written.path.mkdir()
            document.save(model, written)
            decoder = Decoder(OnnxRuntime().open_model(written, 1), layout)
            found[name] = {}
            for context in CONTEXTS:
                score = retrieval(decoder, needles(haystack, context), rows=1)
                found[name][str(context)] = {"found": score.found, "nll": round(score.nll, 5)}
            print(name, json.dumps(found[name]), flush=True)
    (ROOT / "benchmarks" / "needle.json").write_text(json.dumps(found, indent=1) + "\n")


def needles(haystack: list[int], context: int) -> list[Trial]:
    """Ten needles at five depths; none at the very first token, which has none before it to be known by."""
    return trials(haystack, context, key=[KEY], alphabet=ALPHABET, depths=(0.02, 0.25, 0.5, 0.75, 1.0), repeats=2)


def induction() -> LlamaForCausalLM:
    """The Llama that copies what followed the last token before. The residual stream has four parts of WIDTH: the
    token, the token before it, what to say, and a constant."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=4 * WIDTH,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=HEAD,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    written = np.random.default_rng(1).standard_normal((512, WIDTH))
    written *= WIDTH**0.5 / np.linalg.norm(written, axis=1, keepdims=True)  # every token matches itself alike
    token, before, said, constant = (slice(part * WIDTH, (part + 1) * WIDTH) for part in range(4))
    pairs = HEAD // 2
    fast = torch.arange(pairs // 2)
    slow = torch.cat([torch.arange(pairs // 2, pairs), torch.arange(pairs + pairs // 2, HEAD)])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, token] = torch.from_numpy(written).float()
        model.model.embed_tokens.weight[:, constant] = 1.0
        model.lm_head.weight[:, said] = torch.from_numpy(written).float() * SAY / WIDTH
        first, second = (layer.self_attn for layer in model.model.layers)
        # RoPE turns query and key by their positions; a query turned one step back meets the key of the token before.
        turn = 1e8 ** (-fast / pairs)
        first.k_proj.weight[fast, 3 * WIDTH] = 1.0
        first.q_proj.weight[fast, 3 * WIDTH] = LOOK_BACK * turn.cos()
        first.q_proj.weight[fast + pairs, 3 * WIDTH] = -LOOK_BACK * turn.sin()
        for attention, read, write in ((first, token, before), (second, token, said)):
            attention.v_proj.weight[slow, read] = torch.eye(WIDTH)
            attention.o_proj.weight[write, slow] = torch.eye(WIDTH)
        second.q_proj.weight[slow, token] = MATCH * torch.eye(WIDTH) * HEAD**0.5 / WIDTH
        second.k_proj.weight[slow, before] = torch.eye(WIDTH)
    return model


def _shapes() -> Shapes:
    return Shapes(
        inputs={
            "input_ids": TensorSpec(dtype="int64", dims=["batch", "tokens"]),
            "lengths": TensorSpec(dtype="int64", dims=["batch"]),
        },
        axes={"batch": AxisRange(min=1, opt=2, max=8), "tokens": AxisRange(min=1, opt=8, max=max(CONTEXTS))},
    )


if __name__ == "__main__":
    main()
