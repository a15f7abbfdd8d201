"""Which families of Hugging Face decoders take a cache, and how near each mode comes to the module itself.

    python benchmarks/decoder_families.py

Small configurations with random weights: a prefill of ragged prompts, then 16 steps, every logit against the module run
on the whole text with no cache. Errors are the greatest relative L2 error of a row's logits. Writes
decoder_families.json.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.remove(str(Path(__file__).parent))  # its subfolders have the names of packages

from tests.decoders import FAMILIES, build, export, logits_of, teacher_forced, token_ids
from trtbuild.backends.decoder.ranges import observe_ranges
from trtbuild.core.errors import TrtbuildError
from trtbuild.core.kv_cache import CacheMode
from trtbuild.graph import document
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.quantize import quantize_cache

CAPACITY = 32
MORE: dict[str, dict[str, Any]] = {
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "olmo": {"num_key_value_heads": 4},
    "olmo2": {"num_key_value_heads": 4},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "starcoder2": {"num_key_value_heads": 2, "sliding_window": 7},
    "granite": {"num_key_value_heads": 2},
    "cohere": {"num_key_value_heads": 2},
    "smollm3": {"num_key_value_heads": 2},
    "exaone4": {
        "num_key_value_heads": 2,
        "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16},
    "gpt_oss": {"num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1},
    "falcon": {"ffn_hidden_size": 48},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    "bloom": {"n_head": 4, "n_layer": 2},
}
"""Families beyond those of the tests; the last six are refused, each for another reason."""


def row(family: str, folder: Path) -> dict[str, Any]:
    """One family: seconds of its export and the error in each mode, or why it is refused."""
    ids = token_ids(3, CAPACITY)
    model = build(family, **MORE.get(family, {}))
    truth = logits_of(model, ids)
    begin = time.perf_counter()
    try:
        path = export(model, folder / f"{family}.onnx")
    except TrtbuildError as error:
        return {"refused": error.message.partition(" (in module")[0]}
    facts: dict[str, Any] = {"export_s": round(time.perf_counter() - begin, 1)}
    ranges = observe_ranges(model, [{"input_ids": ids, "lengths": np.zeros(len(ids), np.int64)}])
    for mode in get_args(CacheMode):
        graph = document.load(path)
        cache = quantize_cache(graph, attach(graph, CAPACITY), mode, ranges)
        ir.save(graph, folder / "cached.onnx")
        facts[f"error_{mode}"] = float(f"{teacher_forced(folder / 'cached.onnx', cache, ids, truth):.2g}")
    return facts


def main() -> None:
    """Run every family and write the table."""
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for family in [*FAMILIES, *MORE]:
            found[family] = row(family, Path(folder))
            print(f"{family:12} {found[family]}", flush=True)
    result = {"transformers": transformers.__version__, "capacity": CAPACITY, "families": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
