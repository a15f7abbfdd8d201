"""What this machine can do: each backend, each accelerator, the store. Nothing heavy is imported to find out."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from trtbuild.backends import BACKENDS
from trtbuild.core import gpu, machine
from trtbuild.core.errors import TrtbuildError
from trtbuild.core.report import Capability, DoctorReport
from trtbuild.pipeline.backend_choice import choose_backend

_DOES = {
    "factory": "load models from Python functions",
    "huggingface": "load Hugging Face models",
    "decoder": "load and watch Hugging Face decoders",
    "pytorch": "export PyTorch to ONNX",
    "modelopt": "calibrate quantization",
    "checkpoint-codes": "take quantized weights from checkpoints",
    "modelopt-training": "train quantized weights",
    "modelopt-onnx": "calibrate quantization of ONNX models",
    "prober": "score the sensitivity of modules",
    "autocast": "lower graphs to FP16 and BF16",
    "onnxruntime": "build and run ONNX Runtime engines",
    "polygraphy": "validate engines",
    "tensorrt": "build and run TensorRT engines",
}


def examine(store: Path) -> DoctorReport:
    """Look at the machine."""
    return DoctorReport(
        processor=machine.processor(),
        cores=machine.core_count(),
        python=platform.python_version(),
        store=_store(store),
        capabilities=[*(_backend(name) for name in BACKENDS), _both_onnxruntimes(), _gpu(), _auto()],
    )


def _backend(name: str) -> Capability:
    provider = BACKENDS[name]
    versions = {package: machine.package_version(package) for package in provider.packages}
    missing = [package for package, version in versions.items() if version is None]
    install = f"pip install 'trtbuild[{provider.extra}]'" if provider.extra else f"pip install {' '.join(missing)}"
    detail = f"lacks {', '.join(missing)}: {install}" if missing else ", ".join(f"{p} {v}" for p, v in versions.items())
    return Capability(name=_DOES[name], available=not missing, detail=detail or "needs no library of its own")


def _both_onnxruntimes() -> Capability:
    """onnxruntime and onnxruntime-gpu overwrite each other's files; which one imports is chance."""
    found = machine.package_version("onnxruntime") or "none"
    both = machine.package_version("onnxruntime-gpu") and "gpu" not in found
    return Capability(
        name="one ONNX Runtime only",
        available=not both,
        detail="both are installed: pip uninstall onnxruntime onnxruntime-gpu, then install the one you want"
        if both
        else found,
    )


def _gpu() -> Capability:
    found = gpu.current()
    return Capability(
        name="an NVIDIA GPU",
        available=found is not None,
        detail=str(found)
        if found
        else "no NVIDIA driver or GPU: engines are built for the CPU; `trtbuild build --until insert` prepares others",
    )


def _auto() -> Capability:
    """What `engine.backend: auto` takes here, and how it writes graphs for it."""
    name = "build engines with `backend: auto`"
    try:
        choice = choose_backend("auto", None)
        dialect = choice.dialect
    except TrtbuildError as error:
        return Capability(name=name, available=False, detail=f"{error.message}; {error.hint}")
    weights = "codes" if dialect.weights == "codes" else "floats behind Q and DQ"
    return Capability(
        name=name, available=True, detail=f"{choice.because}; graphs as for {dialect.name}, weights as {weights}"
    )


def _store(store: Path) -> str:
    folder = next((parent for parent in (store, *store.absolute().parents) if parent.exists()), Path("/"))
    return f"{store}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"
