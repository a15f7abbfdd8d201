"""Which backend builds, for which version of it, and why."""

from __future__ import annotations

from dataclasses import dataclass

from trtbuild.core import gpu, machine
from trtbuild.core.dialects import Dialect, dialect_of, implied_backend
from trtbuild.core.errors import BackendMissing

_NAMES = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class Choice:
    """The backend that builds and runs a recipe's engines."""

    backend: str
    because: str
    version: str | None
    """The version to build for: the recipe's target, else the installed one; None where neither is known."""
    sm: tuple[int, int] | None = None
    """Of this machine's GPU, where engines are built for it."""

    @property
    def dialect(self) -> Dialect:
        """How graphs are written for it. Raises RecipeError where nobody writes any for that version."""
        return dialect_of(self.backend, self.version)


def choose_backend(asked: str, target: str | None, *, builds: bool = True) -> Choice:
    """The backend that builds. Without `builds` nothing is to be built here, so that nothing need be installed.

    `auto` is TensorRT where the target is a version of it, and without a target where it is installed beside a GPU;
    else ONNX Runtime. Raises BackendMissing where the backend, or the version of it that is asked for, is not there.
    """
    backend, because = _chosen(asked, target)
    if not builds:
        return Choice(backend, because, target or installed(backend))
    version = installed(backend)
    if version is None:
        raise BackendMissing(
            f"{because}, and {_NAMES[backend]} is not installed here", hint=f"install it: {_command(backend, target)}"
        )
    if target and not f"{version}.".startswith(f"{target}."):
        raise BackendMissing(
            f"the recipe targets {_NAMES[backend]} {target}, this environment has {version}",
            hint=f"install it: {_command(backend, target)}, or change engine.target",
        )
    if backend == "onnxruntime":
        return Choice(backend, because, target or version)
    device = gpu.current()
    if device is None:
        raise BackendMissing(
            f"{because}, and TensorRT needs an NVIDIA GPU: this process sees none",
            hint="check nvidia-smi and CUDA_VISIBLE_DEVICES, or set engine.backend to onnxruntime; "
            "`trtbuild build --until insert` does here what needs no GPU",
        )
    return Choice(backend, because, target or version, device.sm)


def installed(backend: str) -> str | None:
    """The installed version of a backend, without the name of the distribution that brings it."""
    found = machine.package_version(backend)
    return None if found is None else found.split()[0]


def _chosen(asked: str, target: str | None) -> tuple[str, str]:
    if asked != "auto":
        return asked, "the recipe asks for it"
    if implied := implied_backend(target):
        return implied, f"auto: the recipe targets {target}, a version of {_NAMES[implied]}"
    version, device = installed("tensorrt"), gpu.current()
    if version is not None and device is not None:
        return "tensorrt", f"auto: TensorRT {version} is installed beside {device.name}"
    lacks = " and ".join(
        what for what, there in (("TensorRT", version is not None), ("a GPU", device is not None)) if not there
    )
    return "onnxruntime", f"auto: this machine lacks {lacks}"


def _command(backend: str, target: str | None) -> str:
    if target:
        return f"pip install '{backend}~={target}'" if "." in target else f"pip install '{backend}=={target}.*'"
    return "pip install 'trtbuild[tensorrt]'" if backend == "tensorrt" else "pip install onnxruntime"
