"""Which mode of a KV cache can run where: decided before anything slow starts.

ONNX Runtime runs every mode by the operators' own bodies. TensorRT runs them by plugins whose kernels the engine
embeds (`plugins/`), and has no 8-bit cache of its own; an FP16 one it has from 11 on.
"""

from __future__ import annotations

from typing import NamedTuple

from trtbuild.core.dialects import dialect_of
from trtbuild.core.kv_cache import CacheMode
from trtbuild.core.legality import target
from trtbuild.core.requirements import ADA, AMPERE

LEAST_TENSORRT = (10, 9)
"""The first whose engines embed the kernels of plugins (ahead-of-time plugins) [hdr]."""
LEAST_SM: dict[CacheMode, tuple[int, int]] = {
    "float": AMPERE,  # the plugins' kernels are written for asynchronous copies and mma.m16n8k16
    "int8": AMPERE,
    "int8_static": AMPERE,
    "fp8": ADA,  # cvt from E4M3 [doc] PTX ISA
}
"""The first GPUs that have the instructions of each mode's kernels."""


class Refusal(NamedTuple):
    """Why a mode cannot run, and what to do instead."""

    message: str
    hint: str


def refusal(mode: CacheMode, backend: str, version: str | None, sm: tuple[int, int] | None) -> Refusal | None:
    """Why a target cannot run a mode of the cache; None where it can. Raises RecipeError for a target that is none."""
    where = target(backend, version, sm)
    if where.backend == "onnxruntime":
        return None
    if where.version < LEAST_TENSORRT:
        least = ".".join(map(str, LEAST_TENSORRT))
        return Refusal(
            f"a KV cache needs TensorRT {least}, whose engines embed its kernels, and the target is {where.said}",
            f'set engine.target to "{least}" or later, or engine.backend to onnxruntime',
        )
    if mode == "float" and dialect_of(backend, version).native_cache:
        return None
    if where.sm is not None and where.sm < (least_sm := LEAST_SM[mode]):
        instead = "kv_cache: int8" if where.sm >= LEAST_SM["int8"] else "engine.backend: onnxruntime"
        return Refusal(
            f"a KV cache of mode {mode} needs a GPU of SM {least_sm[0]}.{least_sm[1]} or later, and the target is "
            f"SM {where.sm[0]}.{where.sm[1]}",
            f"nearest that runs: {instead}",
        )
    return None
