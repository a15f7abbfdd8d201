"""Shipped recipes at full size, with random weights: `python benchmarks/recipes/full_size.py [NAME ...]`.

What is asked is whether a model of the real size goes through on a small machine: exported, calibrated, written in an
8-bit format, built with ONNX Runtime, run and compared. Weights and inputs are random, so accuracy and speed say
nothing of the real model. A step's peak is the greatest resident set size of its worker while it ran, libraries
included, sampled every 100 ms.
Writes benchmarks/recipes/full_size.json, one entry a name; entries of other names stay.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

from trtbuild.core.events import Listener, StepName  # noqa: E402 - the repository is no installed package
from trtbuild.pipeline.build import build  # noqa: E402
from trtbuild.pipeline.run import Limits  # noqa: E402

RESULTS = ROOT / "benchmarks" / "recipes" / "full_size.json"
MOST_BYTES, MOST_S = 20e9, 25 * 60
"""What nothing may exceed."""


@dataclass(frozen=True)
class FullSize:
    """A recipe, and what stands for what a user brings."""

    recipe: str
    """Its folder below recipes/."""
    variants: tuple[str, ...]
    """What to build; the reference is built as well."""
    bring: Callable[[Path], Mapping[str, Any]]
    """Writes checkpoint and data into a folder; returns `--set` values by path."""
    sets: Mapping[str, Any] = field(default_factory=dict)


def flow_inputs(folder: Path) -> Path:
    """What CosyVoice's estimators read, 24 rows of 200 frames (4 seconds)."""
    random = np.random.default_rng(0)
    tall, wide = (24, 80, 200), (24, 80)
    arrays = {name: random.standard_normal(tall, np.float32) for name in ("x", "mu", "cond")}
    spks, t = random.standard_normal(wide, np.float32), random.random(24, np.float32)
    np.savez(folder / "inputs.npz", **arrays, mask=np.ones((24, 1, 200), np.float32), spks=spks, t=t)
    return folder / "inputs.npz"


def cosyvoice2_flow(folder: Path) -> dict[str, Any]:
    """flow.pt of CosyVoice2-0.5B: 71 million parameters in the estimator."""
    return _flow(folder, "cosyvoice2", "flow_estimator", (80, 256, 8, 64, 4, 12, 0))


def cosyvoice3_flow(folder: Path) -> dict[str, Any]:
    """flow.pt of CosyVoice3-0.5B: 328 million parameters in the estimator."""
    return _flow(folder, "cosyvoice3", "dit_estimator", (80, 1024, 16, 22, 2, 0))


def _flow(folder: Path, system: str, module: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    import torch

    sys.path.insert(0, str(ROOT / "recipes" / system / "flow"))
    torch.manual_seed(0)
    state = __import__(module).Estimator(*sizes).state_dict()
    torch.save({f"decoder.estimator.{name}": tensor for name, tensor in state.items()}, folder / "flow.pt")
    return {"model.factory.files": [str(folder / "flow.pt")], "data.files": [str(flow_inputs(folder))]}


SMALL = {
    "data.calibration": 8,
    "data.evaluation": 4,
    "data.arguments.held_out": 0.4,
    "measure.runs": 3,
    "measure.warm_up": 1,
    "engine.tactics": "default",
    "engine.backend": "onnxruntime",
    "gates": {"accuracy": {}, "pays": "smaller"},
}
"""Few samples and runs: nothing here depends on how many."""
CPU = {**SMALL, "reference": "fp32"}
"""ONNX Runtime computes FP16 in FP32 on a CPU: FP32 is what an engine here is compared with."""

MODELS: dict[str, FullSize] = {
    "cosyvoice2/flow": FullSize(
        "cosyvoice2/flow", ("int8_sq",), cosyvoice2_flow, {**CPU, "shapes.axes.frames.opt": 200}
    ),
    "cosyvoice3/flow": FullSize(
        "cosyvoice3/flow", ("int8_sq",), cosyvoice3_flow, {**CPU, "shapes.axes.frames.opt": 200}
    ),
}


class Peaks(Listener):
    """Samples the memory of all child processes, and keeps the peak of each step."""

    def __init__(self) -> None:
        self.peak_bytes: dict[str, int] = {}
        self.elapsed_s: dict[str, float] = {}
        self._running: set[str] = set()
        threading.Thread(target=self._sample, daemon=True).start()

    def started(self, step: StepName, reason: str) -> None:
        """Watch a step."""
        self._running.add(step.name)

    def finished(self, step: StepName, elapsed_s: float) -> None:
        """Stop watching it."""
        self._running.discard(step.name)
        self.elapsed_s[step.name] = round(elapsed_s, 1)
        print(f"  {step.name}: {elapsed_s:.1f} s, {self.peak_bytes.get(step.name, 0) / 1e9:.2f} GB", flush=True)

    def _sample(self) -> None:
        me = psutil.Process()
        while True:
            used = 0
            for child in me.children(recursive=True):
                try:
                    used = max(used, child.memory_info().rss)
                except psutil.Error:
                    continue
            for name in list(self._running):
                self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), used)
            time.sleep(0.1)


def measured(model: FullSize) -> dict[str, Any]:
    """Build one of them in a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sets = {**model.sets, **model.bring(folder)}
        peaks = Peaks()
        began, spent = time.perf_counter(), _processor_s()
        report = build(
            ROOT / "recipes" / model.recipe,
            sets=[f"{path}={json.dumps(value)}" for path, value in sets.items()],
            variants=model.variants,
            store=folder / "store",
            output=None,
            listener=peaks,
            limits=Limits(jobs=1),
        )
        elapsed_s = time.perf_counter() - began
        exported = max((folder / "store").rglob("model.onnx*"), key=lambda file: file.stat().st_size)
        return {
            "recipe": model.recipe,
            "elapsed_s": round(elapsed_s),
            "processor_s": round(_processor_s() - spent),
            "peak_gb": round(max(peaks.peak_bytes.values()) / 1e9, 2),
            "fp32_graph_gb": round(exported.stat().st_size / 1e9, 3),
            "variants": {
                each.name: {"verdict": each.verdict, "reasons": each.reasons, "size_bytes": each.size_bytes}
                | {"asked": each.coverage.asked, "ran": each.coverage.ran}
                for each in report.variants
            },
            "steps": {
                name: {"elapsed_s": peaks.elapsed_s[name], "peak_gb": round(peaks.peak_bytes.get(name, 0) / 1e9, 2)}
                for name in peaks.elapsed_s
            },
        }


def _processor_s() -> float:
    """Of this process's finished children: elapsed time also counts what else a shared machine did."""
    times = os.times()
    return times.children_user + times.children_system


def main(names: list[str]) -> None:
    """Measure those named, or all, and keep each as soon as it is there."""
    for name in names or MODELS:
        print(name, flush=True)
        found = measured(MODELS[name])
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        machine = {
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "python": platform.python_version(),
        }
        kept[name] = {"machine": machine, **found}
        RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
        print(json.dumps({key: value for key, value in found.items() if key != "steps"}), flush=True)
        if found["peak_gb"] * 1e9 > MOST_BYTES or found["elapsed_s"] > MOST_S:
            sys.exit(f"{name} took more than {MOST_BYTES / 1e9:g} GB or {MOST_S / 60:g} minutes")


if __name__ == "__main__":
    main(sys.argv[1:])
