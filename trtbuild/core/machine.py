"""The machine as a step may depend on it: processor, libraries. Read without importing any of them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path

from trtbuild.core import gpu


@cache
def processor() -> str:
    """The processor's name and the vector extensions that change which kernels are fastest."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return " ".join([name, *(flag for flag in _EXTENSIONS if flag in flags)])


_EXTENSIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "i8mm", "sve")


def vector_extensions(described: str) -> list[str]:
    """The vector extensions that a processor has, out of what `processor` said of it."""
    return [flag for flag in _EXTENSIONS if flag in described.split()]


def os_and_architecture() -> str:
    """The platform as container registries spell it: `linux/amd64`."""
    system, architecture = platform.system().lower(), platform.machine().lower()
    return f"{system}/{_ARCHITECTURES.get(architecture, architecture)}"


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Python's words, as Go and so the OCI image specification spell them."""


@cache
def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def package_version(name: str) -> str | None:
    """The installed version of a distribution, or of one that brings the same import; None where there is neither."""
    for distribution in (name, *_SAME_IMPORT.get(name, ())):
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(distribution)
            return version if distribution == name else f"{version} ({distribution})"
    return _version_in_source(name) if name in _OFTEN_UNPACKED else None


_SAME_IMPORT = {
    "onnxruntime": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
}
"""Distributions that install the import of another."""

_OFTEN_UNPACKED = ("tensorrt",)
"""Packages that also come as a folder put on the search path, without a record of their installation."""


def _version_in_source(name: str) -> str | None:
    """The `__version__` that a package's first file assigns, read without importing it; None where it has none."""
    with suppress(ImportError, ValueError, OSError):
        spec = util.find_spec(name)
        if spec is not None and spec.origin is not None:
            match = re.search(r"^__version__ = [\"']([^\"']+)[\"']", Path(spec.origin).read_text(), re.MULTILINE)
            return match[1] if match else None
    return None


FACTS: dict[str, Callable[[], str]] = {
    "processor": processor,
    "cores": lambda: str(core_count()),
    "python": platform.python_version,
    "gpu": gpu.described,
    "driver": gpu.driver,
    "platform": os_and_architecture,
}
"""Machine facts that a backend may declare to depend on, by name."""
