"""A model over 2 GB through the whole pipeline, with the peak memory of each step: `python benchmarks/large_model.py`.

Two linear layers of 16,640 x 16,640 in FP32 are 2.2 GB, more than one protobuf message holds. The recipe takes the
module from a Python factory; its variants are FP32 and INT8 weight-only. A step's peak is the greatest memory of
its worker (unique set size) while it ran, sampled every 20 ms. Writes benchmarks/large_model.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from trtbuild.core.events import Listener, StepName  # noqa: E402 - the repository is no installed package
from trtbuild.pipeline.build import build  # noqa: E402
from trtbuild.pipeline.run import Limits  # noqa: E402

WIDTH = 16_640
MODEL = f"""
import numpy as np
import torch


def make():
    torch.manual_seed(0)
    return Wrapped(torch.nn.Sequential(*(torch.nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range(2))))


class Wrapped(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def samples(split, count):
    rng = np.random.default_rng(len(split))
    for _ in range(count):
        yield {{"x": rng.standard_normal((1, {WIDTH})).astype(np.float32)}}
"""
RECIPE = f"""
recipe: large
model: {{factory: "model:make"}}
shapes:
  axes: {{batch: {{min: 1, opt: 2, max: 4}}}}
  inputs: {{x: {{dtype: float32, dims: [batch, {WIDTH}]}}}}
data: {{generator: "model:samples", calibration: 4, evaluation: 4}}
engine: {{tactics: default}}
measure: {{runs: 3, warm_up: 1}}
reference: fp32
gates: {{accuracy: {{cosine_min: {{min: 0.99}}}}, pays: smaller}}
variants:
  fp32: {{precision: fp32}}
  w8a16: {{quantize: {{format: w8a16}}}}
"""


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

    def _sample(self) -> None:
        me = psutil.Process()
        while True:
            resident = 0
            for child in me.children(recursive=True):
                try:
                    resident = max(resident, child.memory_full_info().uss)
                except psutil.Error:
                    continue
            for name in list(self._running):
                self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), resident)
            time.sleep(0.02)


def main() -> None:
    """Build, and write what each step took."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "large").mkdir()
        (folder / "large" / "model.py").write_text(MODEL)
        (folder / "large" / "recipe.yaml").write_text(RECIPE)
        peaks = Peaks()
        report = build(
            folder / "large",
            store=folder / "store",
            output=folder / "engines",
            listener=peaks,
            limits=Limits(jobs=1),
        )
        began = time.perf_counter()
        again = build(folder / "large", store=folder / "store", output=folder / "engines")
        found = {
            "model_bytes": 2 * 4 * WIDTH * WIDTH,
            "variants": {v.name: {"size_bytes": v.size_bytes, "verdict": v.verdict} for v in report.variants},
            "peak_over_model": {
                name: round(peak / (2 * 4 * WIDTH * WIDTH), 2) for name, peak in peaks.peak_bytes.items()
            },
            "elapsed_s": peaks.elapsed_s,
            "second_build_s": round(time.perf_counter() - began, 2),
            "second_build_steps_run": again.steps_run,
        }
    (ROOT / "benchmarks" / "large_model.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
