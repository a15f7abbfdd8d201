"""What it costs to make a decoder of half a billion parameters ready: `python benchmarks/decoder_export.py`.

Qwen2-0.5B's configuration with random weights (2 GB in FP32) from a Hugging Face folder, each step in a process of its
own with two threads: export with a cache for 4096 tokens, AutoCast to FP16, calibration and insertion of W8A16, the
cache in INT8, and three tokens in ONNX Runtime. A step's peak is the greatest resident set of its process, which
counts weights that are only mapped from disk. Writes benchmarks/decoder_export.json.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)  # not this folder, whose subfolders have the names of packages
THREADS = "2"
CAPACITY = 4096
BATCH = 4


def make(folder: Path) -> None:
    """Random weights in a model folder, as from the Hub."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "qwen2")


def export(folder: Path) -> None:
    """The folder as ONNX in FP32, with a cache."""
    from trtbuild.backends.decoder.export import as_decoder
    from trtbuild.backends.pytorch import PyTorch
    from trtbuild.core.decoder_shapes import decoder_shapes
    from trtbuild.core.tensors import AxisRange
    from trtbuild.graph import canonical, document
    from trtbuild.graph.kv_cache.attach import attach

    shapes = decoder_shapes(CAPACITY, AxisRange(min=1, opt=2, max=BATCH), 16)
    PyTorch().export(as_decoder(_module(folder)), shapes, 21, folder / "raw.onnx")
    graph = document.load(folder / "raw.onnx")
    canonical.canonicalize(graph)
    attach(graph, CAPACITY, "float16").write(_new(folder / "fp32"))
    document.save(graph, _onnx(folder / "fp32"))


def autocast(folder: Path) -> None:
    """FP32 to FP16."""
    from trtbuild.backends.autocast import AutoCast
    from trtbuild.core.stage import Workspace
    from trtbuild.stages.autocast import AutocastOptions, autocast

    lowered = autocast(_onnx(folder / "fp32"), AutocastOptions(), AutoCast(), Workspace(_new(folder / "autocast")))
    lowered.path.rename(folder / "fp16")


def calibrate(folder: Path) -> None:
    """Numbers for W8A16, which needs no samples."""
    from trtbuild.backends.modelopt.calibrator import ModelOpt
    from trtbuild.core.artifacts import QuantizationPlan
    from trtbuild.stages.calibrate import CalibrateOptions

    plan = QuantizationPlan(_new(folder / "plan"))
    ModelOpt().calibrate(_module(folder), CalibrateOptions(format="w8a16"), [], plan)


def quantize(folder: Path) -> None:
    """Weights as INT8 codes, the cache in INT8."""
    from trtbuild.core.artifacts import QuantizationPlan
    from trtbuild.core.dialects import ONNX_RUNTIME
    from trtbuild.core.kv_cache import KvCache
    from trtbuild.core.quantization import Plan
    from trtbuild.graph import document, insertion
    from trtbuild.graph.kv_cache.quantize import quantize_cache

    graph = document.load(folder / "fp16" / "model.onnx")
    coverage = insertion.insert(graph, Plan.read(QuantizationPlan(folder / "plan")), dialect=ONNX_RUNTIME)
    assert coverage.inserted == coverage.asked == 24 * 7, coverage
    quantize_cache(graph, KvCache.read(folder / "fp16"), "int8").write(_new(folder / "int8"))
    document.save(graph, _onnx(folder / "int8"))


def run(folder: Path) -> None:
    """Two prompts and three steps in ONNX Runtime."""
    from trtbuild.backends.onnxruntime.backend import OnnxRuntime
    from trtbuild.core.kv_cache import KvCache
    from trtbuild.decoding.decoder import Decoder

    layout = KvCache.read(folder / "int8")
    decoder = Decoder(OnnxRuntime().open_model(_onnx(folder / "int8"), int(THREADS)), layout)
    decoder.start(2)
    ids = np.random.default_rng(0).integers(0, 151_936, (2, 16))
    for tokens in (ids, ids[:, :1], ids[:, 1:2], ids[:, 2:3]):
        assert np.isfinite(decoder.advance(tokens)).all()


STEPS: dict[str, Callable[[Path], None]] = {
    "make": make,
    "export": export,
    "autocast": autocast,
    "calibrate": calibrate,
    "quantize": quantize,
    "run": run,
}


def main() -> None:
    """Run every step, and write what each took."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for step in STEPS:
            command = [sys.executable, __file__, step, scratch]
            environment = os.environ | {"OMP_NUM_THREADS": THREADS, "MKL_NUM_THREADS": THREADS}
            said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
            found[step] = json.loads(said.splitlines()[-1])
            print(step, found[step], flush=True)
        sizes = {
            name: round(sum(file.stat().st_size for file in (Path(scratch) / name).iterdir()) / 1e9, 3)
            for name in ("fp32", "fp16", "int8")
        }
    del found["make"]  # what is measured begins with a folder
    facts = {"parameters": 494_032_768, "capacity": CAPACITY, "threads": int(THREADS), "size_gb": sizes, "steps": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def _child(step: str, folder: Path) -> None:
    began = time.perf_counter()
    STEPS[step](folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"elapsed_s": round(time.perf_counter() - began, 1), "peak_gb": round(peak / 1e9, 2)}))


def _module(folder: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "qwen2", dtype=torch.float32).eval()


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _onnx(folder: Path):
    from trtbuild.core.artifacts import OnnxModel

    return OnnxModel(folder)


if __name__ == "__main__":
    main() if len(sys.argv) == 1 else _child(sys.argv[1], Path(sys.argv[2]))
