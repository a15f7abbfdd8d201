"""The memory that each calibration needs, over the model's own bytes: `python benchmarks/calibration_memory.py`.

The model is a transformer encoder of 4 blocks (width 1024, feed-forward width 4096; 201 MB in FP32), in which one
Hessian of GPTQ, 4096 x 4096, is a third of the model. Each calibration runs in a process of its own, with a worker's
environment, which imports everything and calibrates a tiny model first. What it holds then is the baseline; the peak is
the greatest resident set size above that, as the kernel counted it, the model itself included. Writes
benchmarks/calibration_memory.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)

from trtbuild.pipeline.workers import ENVIRONMENT  # noqa: E402 - the repository is no installed package

WIDTH, LAYERS, BATCHES, ROWS, TOKENS = 1024, 4, 2, 4, 64
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "int8": {"format": "int8"},
    "int8 entropy": {"format": "int8", "method": "entropy"},
    "int8 percentile": {"format": "int8", "method": "percentile"},
    "int8 mse": {"format": "int8", "method": "mse"},
    "int8_sq": {"format": "int8_sq"},
    "fp8": {"format": "fp8"},
    "fp8 gptq": {"format": "fp8", "rounding": "gptq"},
    "fp8_pc_pt": {"format": "fp8_pc_pt"},
    "fp8_block128": {"format": "fp8_block128"},
    "w8a16": {"format": "w8a16"},
    "w8a16 gptq": {"format": "w8a16", "rounding": "gptq"},
    "int4": {"format": "int4"},
    "int4_gptq": {"format": "int4_gptq"},
    "int4_awq": {"format": "int4_awq"},
    "int4_awq gptq": {"format": "int4_awq", "rounding": "gptq"},
    "w4a8_awq": {"format": "w4a8_awq"},
    "nvfp4": {"format": "nvfp4"},
    "mxfp8": {"format": "mxfp8"},
}


def main(names: list[str]) -> None:
    """Measure each calibration, or only those named, and write all that was measured."""
    measured = {}
    for name in names or CALIBRATIONS:
        command = [sys.executable, __file__, "--child", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**ENVIRONMENT, **os.environ})
        measured[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {measured[name]}", flush=True)
    file = ROOT / "benchmarks" / "calibration_memory.json"
    found = json.loads(file.read_text())["calibrations"] if names and file.exists() else {}
    told = {"model_bytes": model_bytes(), "calibrations": {**found, **measured}}
    file.write_text(json.dumps(told, indent=1) + "\n")


def model_bytes() -> int:
    """Of the FP32 parameters: each layer has 12 width^2 weights, 9 width biases and two norms."""
    return 4 * LAYERS * (12 * WIDTH**2 + 9 * WIDTH + 4 * WIDTH)


def child(name: str) -> None:
    """One calibration, in this process; prints what it took as JSON."""
    from trtbuild.backends.modelopt.calibrator import ModelOpt
    from trtbuild.core.artifacts import QuantizationPlan
    from trtbuild.stages.calibrate import CalibrateOptions

    options = CalibrateOptions(**CALIBRATIONS[name])
    with tempfile.TemporaryDirectory() as folder:
        tiny, real = (QuantizationPlan(Path(folder) / part) for part in ("tiny", "real"))
        tiny.path.mkdir()
        real.path.mkdir()
        ModelOpt().calibrate(_model(256, 1), options, _samples(256), tiny)
        baseline = _resident_bytes("VmRSS")
        module = _model(WIDTH, LAYERS)
        assert sum(parameter.nbytes for parameter in module.parameters()) == model_bytes()
        began = time.perf_counter()
        ModelOpt().calibrate(module, options, _samples(WIDTH), real)
        elapsed_s = time.perf_counter() - began
    peak = _resident_bytes("VmHWM") - baseline
    print(json.dumps({"peak_over_model": round(peak / model_bytes(), 2), "elapsed_s": round(elapsed_s, 1)}))


def _model(width: int, layers: int) -> Any:
    import torch

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (torch.nn.Linear(width, width) for _ in range(4))
            self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
            self.before_attention, self.before_linears = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            read = self.before_attention(x)
            heads = [layer(read).unflatten(-1, (8, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
            attended = torch.nn.functional.scaled_dot_product_attention(*heads)
            x = x + self.out(attended.transpose(1, 2).flatten(2))
            answered: torch.Tensor = x + self.down(torch.nn.functional.gelu(self.up(self.before_linears(x))))
            return answered

    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.Sequential(*(Block() for _ in range(layers)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answered: torch.Tensor = self.blocks(x)
            return answered

    return Model().eval()


def _samples(width: int) -> list[dict[str, Any]]:
    import numpy as np

    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((ROWS, TOKENS, width)).astype(np.float32)} for _ in range(BATCHES)]


def _resident_bytes(which: str) -> int:
    """Of this process: `VmRSS` now, `VmHWM` at the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
    else:
        main(sys.argv[1:])
