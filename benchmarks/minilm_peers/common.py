"""What every peer shares: the sentences, the FP32 reference, the export, and one way to score INT8 ONNX files.

As a program it scores files, all in turns with the FP32 export, and prints JSON:

    python common.py int8.onnx other.onnx --optimized engine.onnx --fp32 fp32.onnx
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "minilm"
sys.path.insert(0, str(RECIPE))

import minilm  # noqa: E402 - found through the line above

CALIBRATION, HELD_OUT = 256, 128
BATCH, TOKENS, VOCABULARY = 16, 128, 30522
THREADS, WARM_UP, CALLS = 2, 5, 40
OPSET = 21


def calibration() -> list[dict[str, np.ndarray]]:
    """The recipe's 256 calibration sentences: 16 batches of 16 rows."""
    return list(minilm.sentences("calibration", CALIBRATION))


def held_out() -> list[dict[str, np.ndarray]]:
    """The recipe's 128 held-out sentences: 8 batches of 16 rows."""
    return list(minilm.sentences("evaluation", HELD_OUT))


def output_folder() -> Path:
    """The folder that a peer writes to: the only argument of its script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load() -> Any:
    """MiniLM in PyTorch, float32, from its folder."""
    import transformers

    model = transformers.AutoModel.from_pretrained(
        minilm.model_folder(), attn_implementation="eager", add_pooling_layer=False
    )
    return model.eval()


def export(target: Path) -> Path:
    """Write the float32 ONNX graph with `torch.onnx.export(dynamo=True)`: batch and sequence stay dynamic."""
    import torch

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = load()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    axes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=256)}
    ids = torch.randint(0, VOCABULARY, (BATCH, TOKENS))
    names = ("input_ids", "attention_mask")
    program = torch.onnx.export(
        LastHiddenState().eval(),
        (),
        kwargs=dict(zip(names, (ids, torch.ones_like(ids)), strict=True)),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(names),
        output_names=["last_hidden_state"],
        dynamic_shapes=dict.fromkeys(names, axes),
        verbose=False,
    )
    program.save(target, external_data=False)
    return target


def reference(batches: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """What PyTorch says in float32, batch by batch."""
    import torch

    model = load()
    with torch.inference_mode():
        return [
            {"last_hidden_state": model(**{k: torch.from_numpy(v) for k, v in batch.items()}).last_hidden_state.numpy()}
            for batch in batches
        ]


class Session:
    """An ONNX Runtime CPU session with two threads that takes the recipe's inputs.

    Its threads stop spinning after a run; otherwise two sessions in turns would disturb each other. The run itself,
    which is what is timed, stays the same.
    """

    def __init__(self, model: Path, optimized: bool) -> None:
        """`optimized`: the file is a finished engine, so ONNX Runtime must not optimize it again."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        if optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.names = [given.name for given in self.session.get_inputs()]

    def run(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One batch: the graph's `last_hidden_state`; a graph that asks for token types gets zeros."""
        full = {**batch, "token_type_ids": np.zeros_like(batch["input_ids"])}
        return {"last_hidden_state": self.session.run(["last_hidden_state"], {n: full[n] for n in self.names})[0]}


def in_turns(sessions: list[Session], batch: dict[str, np.ndarray]) -> list[list[float]]:
    """Milliseconds of 40 calls of each session, taken in turns after 5 calls of warm-up."""
    taken: list[list[float]] = [[] for _ in sessions]
    for call in range(WARM_UP + CALLS):
        for session, times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            session.run(batch)
            if call >= WARM_UP:
                times.append(1000 * (time.perf_counter() - start))
    return taken


def score(models: list[Path], optimized: list[Path], fp32: Path) -> dict[str, dict[str, float]]:
    """Accuracy against PyTorch float32, size, and latency, all files in turns with the float32 export.

    Those in `optimized` run as they are, the others and the export at ONNX Runtime's default optimization.
    """
    batches = held_out()
    expected = reference(batches)
    files = [fp32, *models, *optimized]
    sessions = [Session(file, file in optimized) for file in files]
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, TOKENS), dtype=np.int64)
    taken = in_turns(sessions, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return {
        str(file): {
            **minilm.embedding_agreement([session.run(batch) for batch in batches], expected, batches),
            "bytes": file.stat().st_size,
            "of_fp32_bytes": file.stat().st_size / fp32.stat().st_size,
            "ms_median": statistics.median(times),
            "ms_p95": float(np.percentile(times, 95)),
            "of_fp32_ms": statistics.median(times) / statistics.median(taken[0]),
        }
        for file, session, times in zip(files, sessions, taken, strict=True)
    }


def main() -> None:
    """Score files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", type=Path, nargs="*", help="for ONNX Runtime's default optimization")
    parser.add_argument("--optimized", type=Path, nargs="*", default=[], help="run as they are, without optimization")
    parser.add_argument("--fp32", type=Path, required=True, help="the float32 export; written when it is missing")
    given = parser.parse_args()
    if not given.fp32.is_file():
        export(given.fp32)
    print(json.dumps(score(given.models, given.optimized, given.fp32)))


if __name__ == "__main__":
    main()
