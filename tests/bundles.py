"""Engine folders and bundles without a build: what `build` would have written, for any machine, of any size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trtbuild.pipeline.package import package
from trtbuild.pipeline.release import MANIFEST_FORMAT

CHUNK_BYTES = 1 << 24
MODEL = {"stage": "adopt v1", "source.kind": "onnx", "source.file.model.onnx": "ab" * 32, "shapes.axes.batch.max": "8"}


def write_engine(
    folder: Path,
    *,
    variant: str = "fp16",
    gpu: str | None = "NVIDIA H200",
    sm: tuple[int, int] = (9, 0),
    tensorrt: str = "10.13.2.6",
    cuda: str = "13.0",
    hardware_compatibility: str = "none",
    version_compatible: bool = False,
    verdict: str = "passed",
    median_ms: float = 1.0,
    size_bytes: int = 1000,
    seed: int = 0,
    calibration: str | None = None,
    model: Mapping[str, str] = MODEL,
    recipe: str = "tiny",
    facts: Mapping[str, Any] | None = None,
    **manifest_facts: Any,
) -> Path:
    """One engine: a TensorRT plan of random bytes for a GPU, or with `gpu` None one of ONNX Runtime."""
    folder.mkdir(parents=True)
    main = "engine.plan" if gpu else "engine.onnx"
    rng = np.random.default_rng(seed)
    with (folder / main).open("wb") as stream:
        for start in range(0, size_bytes, CHUNK_BYTES):
            stream.write(rng.bytes(min(CHUNK_BYTES, size_bytes - start)))
    engine: dict[str, Any] = (
        {
            "backend": "tensorrt",
            "tensorrt": tensorrt,
            "gpu": gpu,
            "sm": list(sm),
            "cuda": cuda,
            "driver": "580.95.05",
            "hardware_compatibility": hardware_compatibility,
            "version_compatible": version_compatible,
            "plugins": [],
        }
        if gpu
        else {"backend": "onnxruntime", "onnxruntime": "1.31.1", "processor": "a processor avx2"}
    )
    (folder / "engine.json").write_text(json.dumps({**engine, **(facts or {})}))
    files = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        files[file.name] = {"bytes": file.stat().st_size, "sha256": sha256}
    manifest = {
        "format": MANIFEST_FORMAT,
        "recipe": recipe,
        "variant": variant,
        "precision": "fp16",
        "quantization": "int8" if calibration else None,
        "engine_digest": hashlib.sha256(str(seed).encode()).hexdigest(),
        "files": files,
        "machine": {"platform": "linux/amd64"},
        "trtbuild": "0.1.0",
        "calibration": {"generator": "g:s", "rows": 8, "digest": calibration} if calibration else None,
        "coverage": {},
        "measurement": {"engine": {"median_ms": median_ms}, "device": gpu or "a processor"},
        "verdict": {
            "outcome": verdict,
            "reasons": [] if verdict == "passed" else ["cosine_min is 0.9, at least 0.99 is wanted"],
            "remarks": [],
            "accuracy": {"cosine_min": 0.999},
            "speedup": 1.5,
            "size_ratio": 0.5,
        },
        "steps": {"adopt": {"ingredients": dict(model), "finished_at": 1.7e9}},
        **manifest_facts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_bundle(folder: Path, version: str = "1.0", **engine: Any) -> Path:
    """A bundle of one engine."""
    source = write_engine(folder / f"built-{version}", **engine)
    return Path(package([source], output=folder / f"bundle-{version}", version=version, allow_failed=True).bundle)
