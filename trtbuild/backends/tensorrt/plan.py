"""The plan's header and its manifest: what may be loaded on this machine.

A plan is executable code. It is deserialized only where its digest is the manifest's, and its versions and GPU fit.
"""

from __future__ import annotations

import hashlib
import json
import struct
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from trtbuild.core.artifacts import Engine
from trtbuild.core.errors import ModelError
from trtbuild.core.gpu import Device
from trtbuild.core.interface import ProfileRange
from trtbuild.core.target import gpu_misfit, version_misfit
from trtbuild.core.values import Result

PLAN_FILE = "engine.plan"
LAYERS_FILE = "layers.json"
"""The engine inspector's JSON, as this TensorRT spells it."""
NODES_FILE = "nodes.json"
"""The products of the graph, by node name: see `trtbuild.backends.tensorrt.inspection.Nodes`."""

MAGIC = 0x74727466
"""The first word of every plan, little endian: the bytes `ftrt`. [TensorRT samples/common/sampleEngines.cpp]"""
_HEADER = struct.Struct("<II16xBBBB")
"""Magic, serialization version, 16 bytes that nobody documents, then TensorRT's major, minor, patch and build."""


class Manifest(Result):
    """What an engine is, and for which machine: `engine.json`."""

    backend: str = "tensorrt"
    tensorrt: str
    """The version that built it."""
    cuda: str
    """The newest CUDA of the driver at build time."""
    driver: str
    gpu: str
    """The GPU's name."""
    sm: tuple[int, int]
    multiprocessors: int
    memory_mb: int
    plan_sha256: str
    plan_bytes: int
    plan_header: str
    """The version in the plan's header; empty where that TensorRT wrote no header that is known."""
    timing_cache_sha256: str
    """Of the timing cache that the build began with; empty where it began with none."""
    dialect: str
    """How the graph was written: `TensorRT 8.6`."""
    precision_flags: list[str]
    """Builder flags that allow other precisions than the graph's; empty where the graph alone decides."""
    profiles: list[ProfileRange]
    outputs: dict[str, str]
    """The element type of each output, as the ONNX model declares it and numpy spells it."""
    hardware_compatibility: str
    version_compatible: bool
    weight_streaming: bool
    plugins: list[str]
    device_memory_bytes: int
    """What an execution context takes on the GPU beside the weights."""
    estimated_weights_bytes: int
    estimated_activations_bytes: int
    """Before the build: tensors alive at once, unfused, at the greatest shapes."""


def header_version(content: bytes | memoryview, name: str) -> str:
    """The TensorRT version that wrote a plan, read from its header, nothing deserialized.

    Raises ModelError where it is no plan, or is shorter than a header. `name` is the plan's, for messages.
    """
    if len(content) < _HEADER.size:
        raise ModelError(f"{name}: {len(content)} bytes are too few for a TensorRT plan", hint="build or copy it again")
    magic, serialization, *version = _HEADER.unpack_from(content)
    if magic != MAGIC:
        raise ModelError(f"{name}: not a TensorRT plan: it does not begin with `ftrt`", hint="build or copy it again")
    if serialization != 0:
        raise ModelError(
            f"{name}: a plan of serialization version {serialization}, which no known TensorRT writes",
            hint="build it again here",
        )
    return ".".join(map(str, version))


def digest(content: bytes | memoryview) -> str:
    """The sha256 (hex) of a plan."""
    return hashlib.sha256(content).hexdigest()


def read_manifest(engine: Engine) -> Manifest:
    """The manifest of an engine; in a bundle, with its plugins where the bundle has them.

    Raises ModelError where it is missing, damaged or another backend's.
    """
    try:
        manifest = Manifest.model_validate_json(engine.main.read_bytes())
        return manifest.model_copy(update={"plugins": [_plugin(engine, name) for name in manifest.plugins]})
    except (OSError, ValidationError) as error:
        reason = "another backend built it" if _is_foreign(engine.main) else str(error).splitlines()[0]
        raise ModelError(f"{engine.path}: not a TensorRT engine of trtbuild: {reason}", hint="build it here") from error


def misfit(manifest: Manifest, version: str, device: Device) -> str | None:
    """Why an engine does not run with this TensorRT on this GPU, and what would fit, in words; None where it runs."""
    return version_misfit("TensorRT", manifest.tensorrt, version, forward=manifest.version_compatible) or gpu_misfit(
        manifest.sm, manifest.gpu, manifest.hardware_compatibility, device
    )


def verified(engine: Engine, manifest: Manifest, version: str, device: Device) -> bytes:
    """The plan's bytes, which may be deserialized here.

    Raises ModelError where the plan is missing, truncated or changed, or does not fit this machine.
    """
    if (reason := misfit(manifest, version, device)) is not None:
        raise ModelError(f"{engine.path}: this engine does not fit this machine: {reason}", hint="build it again here")
    file = engine.path / PLAN_FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: the plan is missing: {error.strerror}", hint="build or copy it again") from error
    if digest(content) != manifest.plan_sha256:
        size = f"{len(content)} bytes, built with {manifest.plan_bytes}"
        raise ModelError(
            f"{file}: not the plan that engine.json speaks of ({size}): it is damaged or was changed",
            hint="build or copy it again; a plan is executable code, and this one is not loaded",
        )
    if manifest.plan_header and (written := header_version(content, str(file))) != manifest.plan_header:
        raise ModelError(
            f"{file}: TensorRT {written} wrote it, engine.json says {manifest.plan_header}", hint="build it again here"
        )
    return content


def _plugin(engine: Engine, recorded: str) -> str:
    """A plugin of a bundle, `plugins/<digest>/<name>` beside `engines/<name>`; elsewhere what was recorded."""
    found = sorted((engine.path.parent.parent / "plugins").glob(f"*/{Path(recorded).name}"))
    return str(found[0]) if found else recorded


def _is_foreign(file: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return bool(json.loads(file.read_bytes()).get("backend", "tensorrt") != "tensorrt")
    return False
