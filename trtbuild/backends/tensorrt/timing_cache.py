"""Measured kernel times, kept between builds in a file that other builds may read and write at the same time.

The file is TensorRT's own format, as trtexec reads it. It is replaced whole, never written in place: a build that dies
leaves the old one.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from trtbuild.core.errors import ModelError
from trtbuild.core.gpu import Device

if TYPE_CHECKING:
    import tensorrt

_PATIENCE_S = 60.0


def path_of(setting: str, version: str, device: Device, environment: dict[str, str] | None = None) -> Path | None:
    """The file that `engine.timing_cache` means for this TensorRT and GPU; None for `off`."""
    if setting == "off":
        return None
    if setting != "shared":
        return Path(setting).expanduser()
    name = re.sub(r"[^A-Za-z0-9]+", "-", device.name).strip("-").lower()
    return _folder(dict(os.environ) if environment is None else environment) / (
        f"tensorrt-{version}-{device.architecture}-{name}.cache"
    )


def _folder(environment: dict[str, str]) -> Path:
    if named := environment.get("TRTBUILD_TIMING_CACHE"):
        return Path(named)
    if store := environment.get("TRTBUILD_STORE"):
        return Path(store) / "timing"
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trtbuild" / "timing"


@dataclass
class Attached:
    """The timing cache of one build."""

    cache: tensorrt.ITimingCache
    """TensorRT's own object; it must outlive the build."""
    sha256: str
    """Of the bytes that the build began with; empty where it began with none."""


def attach(config: tensorrt.IBuilderConfig, file: Path | None, locked: bool) -> Attached | None:
    """Give the configuration the cache of a file, or an empty one; None where there is no file to keep one in.

    A file that TensorRT refuses (another GPU, damaged) is left out, and replaced after the build. Raises ModelError
    where it is refused or missing and the build must use nothing else (`locked`).
    """
    if file is None:
        if locked:
            raise ModelError(
                "a locked timing cache needs a file, and engine.timing_cache is off",
                hint="set engine.timing_cache to shared or a path, or error_on_timing_cache_miss to false",
            )
        return None
    stored = file.read_bytes() if file.is_file() else b""
    if locked and not stored:
        raise ModelError(
            f"{file}: there is no timing cache to lock the build to",
            hint="build once with error_on_timing_cache_miss: false, which writes it",
        )
    for content in dict.fromkeys((stored, b"")):
        cache = _created(config, content)
        if cache is not None and config.set_timing_cache(cache, False):
            print(f"timing cache {file}: {len(content)} bytes to begin with", flush=True)
            return Attached(cache, hashlib.sha256(content).hexdigest() if content else "")
        if locked:
            raise ModelError(
                f"{file}: TensorRT refuses this timing cache: another GPU or TensorRT wrote it, or it is damaged",
                hint="delete it and build once with error_on_timing_cache_miss: false",
            )
        print(f"timing cache {file}: refused by TensorRT, starting an empty one", flush=True)
    return None


def keep(config: tensorrt.IBuilderConfig, file: Path) -> None:
    """Merge what the build measured with what others wrote meanwhile, and replace the file. Never fails a build."""
    measured = config.get_timing_cache()
    if measured is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=_PATIENCE_S):
            if file.is_file():
                cache = _created(config, file.read_bytes())
                if cache is not None:
                    measured.combine(cache, False)
            replace(file, bytes(memoryview(measured.serialize()).cast("B")))
    except (OSError, Timeout) as error:
        print(f"timing cache {file}: not kept: {error}", flush=True)


def replace(file: Path, content: bytes) -> None:
    """Put content at a path in one step: who reads it sees the old bytes or the new ones, also after a power cut."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stored:
            stored.write(content)
            stored.flush()
            os.fsync(stored.fileno())
        os.chmod(name, 0o644)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _created(config: tensorrt.IBuilderConfig, content: bytes) -> tensorrt.ITimingCache | None:
    try:
        return config.create_timing_cache(content)
    except (RuntimeError, TypeError, ValueError):  # pybind11's, where TensorRT returns no object
        return None
