"""Who can do it: the catalogue of backends. A backend's module is imported only when a step runs."""

from __future__ import annotations

from trtbuild.core.roles import Calibrator, Caster, Comparer, Compiler, Exporter, Interpreter, Loader, Provider, Runner

BACKENDS = {
    "factory": Provider("trtbuild.backends.factory:Factory", (Loader,), (), extra="export"),
    "huggingface": Provider(
        "trtbuild.backends.huggingface:HuggingFace", (Loader,), ("torch", "transformers"), extra="export"
    ),
    "pytorch": Provider("trtbuild.backends.pytorch:PyTorch", (Exporter,), ("torch", "onnxscript"), extra="export"),
    "modelopt": Provider(
        "trtbuild.backends.modelopt:ModelOpt", (Calibrator,), ("torch", "nvidia-modelopt"), extra="export"
    ),
    "autocast": Provider("trtbuild.backends.autocast:AutoCast", (Caster,), ("nvidia-modelopt",), extra="export"),
    "onnxruntime": Provider(
        "trtbuild.backends.onnxruntime:OnnxRuntime",
        (Compiler, Runner, Interpreter),
        ("onnxruntime",),
        ("processor", "cores"),
    ),
    "polygraphy": Provider("trtbuild.backends.polygraphy:Polygraphy", (Comparer,), ("polygraphy",)),
}
"""Every backend by the name that recipes use."""
