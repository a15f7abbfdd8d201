"""TensorRT itself: found, named, and listened to. Nothing else here imports it."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trtbuild.core import gpu
from trtbuild.core.errors import BackendMissing, ModelError, RecipeError


def load() -> Any:
    """The module `tensorrt`, its plugin registry filled.

    Raises BackendMissing where there is no GPU (TensorRT ends the process where it meets none) or no TensorRT.
    """
    need_gpu()
    try:
        import tensorrt as trt
    except ImportError as error:
        raise BackendMissing(
            f"TensorRT cannot be loaded: {error}",
            hint="pip install 'trtbuild[tensorrt]'; libraries from a tar file must be on LD_LIBRARY_PATH",
        ) from error
    return trt


def quick_plugins() -> Any:
    """The module `tensorrt.plugin`, where quickly deployable plugins are registered (10.9 and later embed kernels)."""
    return importlib.import_module("tensorrt.plugin")


def need_gpu() -> gpu.Device:
    """The GPU of this process. Raises BackendMissing where there is none."""
    device = gpu.current()
    if device is None:
        raise BackendMissing(
            "TensorRT needs an NVIDIA GPU, and this process sees none",
            hint="check nvidia-smi and CUDA_VISIBLE_DEVICES, or set engine.backend to onnxruntime",
        )
    return device


def member(enumeration: Any, name: str, setting: str, version: str) -> Any:
    """A member of one of TensorRT's enumerations, by name: their numbers change from version to version.

    Raises RecipeError where this version has no such member.
    """
    found = getattr(enumeration, name, None)
    if found is None:
        raise RecipeError(
            f"{setting}: TensorRT {version} has no {enumeration.__name__}.{name}",
            hint=f"leave {setting.partition(':')[0]} out, or build with a TensorRT that has it",
        )
    return found


def assign(target: Any, attribute: str, value: Any, setting: str, version: str) -> None:
    """Set a property of one of TensorRT's objects. Raises RecipeError where this version has no such property."""
    if not hasattr(type(target), attribute):
        raise RecipeError(
            f"{setting}: TensorRT {version} has no {type(target).__name__}.{attribute}",
            hint=f"leave {setting.partition(':')[0]} out, or build with a TensorRT that has it",
        )
    setattr(target, attribute, value)


def load_plugins(trt: Any, logger: Any, plugins: Iterable[str | Path]) -> None:
    """Load plugin libraries, then register TensorRT's own plugins. Raises ModelError where one does not load."""
    for plugin in plugins:
        try:
            ctypes.CDLL(str(plugin))
        except OSError as error:
            raise ModelError(
                f"the plugin library {plugin} cannot be loaded: {error}", hint="check engine.plugins"
            ) from error
    trt.init_libnvinfer_plugins(logger, "")


class Messages:
    """What TensorRT's logger said, so that an error can be told in its words."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def note(self, severity: str, text: str) -> None:
        """Keep errors and warnings, print all but details."""
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(text)
        elif severity == "WARNING":
            self.warnings.append(text)
        if severity != "VERBOSE":
            print(f"[TensorRT {severity.lower()}] {text}", flush=True)

    def essence(self, count: int = 3) -> str:
        """The last few errors, each once, on one line; without any, the last warnings."""
        said = list(dict.fromkeys(" ".join(text.split()) for text in self.errors or self.warnings[-1:]))
        return "; ".join(said[-count:]) or "it gave no reason"


def listening_logger(trt: Any, messages: Messages) -> Any:
    """A logger of TensorRT's own kind that writes to `messages`. It must outlive everything made with it."""

    class _Logger(trt.ILogger):  # type: ignore[misc]  # TensorRT carries no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            messages.note(severity.name, msg)

    return _Logger()
