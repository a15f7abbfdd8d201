"""Who can do it: the catalogue of backends. A backend's module is imported only when a step runs."""

from __future__ import annotations

from trtbuild.core.roles import (
    CacheObserver,
    Calibrator,
    Caster,
    Comparer,
    Compiler,
    Exporter,
    Interpreter,
    Loader,
    OnnxCalibrator,
    Prober,
    Provider,
    Runner,
    Trainer,
)

BACKENDS = {
    "factory": Provider("trtbuild.backends.factory:Factory", (Loader,), (), extra="export"),
    "huggingface": Provider(
        "trtbuild.backends.huggingface:HuggingFace", (Loader,), ("torch", "transformers"), extra="export"
    ),
    "decoder": Provider(
        "trtbuild.backends.decoder.backend:HuggingFaceDecoder",
        (Loader, CacheObserver),
        ("torch", "transformers"),
        extra="export",
    ),
    "pytorch": Provider("trtbuild.backends.pytorch:PyTorch", (Exporter,), ("torch", "onnxscript"), extra="export"),
    "modelopt": Provider(
        "trtbuild.backends.modelopt.calibrator:ModelOpt", (Calibrator,), ("torch", "nvidia-modelopt"), extra="export"
    ),
    "checkpoint-codes": Provider(
        "trtbuild.backends.checkpoint_codes:CheckpointCodes", (Calibrator,), ("torch",), extra="export"
    ),
    "modelopt-training": Provider(
        "trtbuild.backends.modelopt.training:ModelOptTrainer", (Trainer,), ("torch", "nvidia-modelopt"), extra="export"
    ),
    "modelopt-onnx": Provider(
        "trtbuild.backends.modelopt_onnx.calibrator:ModelOptOnnx",
        (OnnxCalibrator,),
        ("nvidia-modelopt", "onnxruntime", "onnx"),
        extra="export",
    ),
    "prober": Provider("trtbuild.backends.prober:TorchProber", (Prober,), ("torch",), extra="export"),
    "autocast": Provider("trtbuild.backends.autocast:AutoCast", (Caster,), ("nvidia-modelopt",), extra="export"),
    "onnxruntime": Provider(
        "trtbuild.backends.onnxruntime.backend:OnnxRuntime",
        (Compiler, Runner, Interpreter),
        ("onnxruntime",),
        ("processor", "cores"),
    ),
    "tensorrt": Provider(
        "trtbuild.backends.tensorrt.backend:TensorRT",
        (Compiler, Runner),
        ("tensorrt",),
        ("gpu", "driver"),
        extra="tensorrt",
    ),
    "polygraphy": Provider("trtbuild.backends.polygraphy:Polygraphy", (Comparer,), ("polygraphy",)),
}
"""Every backend by the name that recipes use."""
