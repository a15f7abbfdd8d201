"""The graph in the form that this processor's kernels want; it computes the same function."""

from __future__ import annotations

import platform
from pathlib import Path

from trtbuild.core.artifacts import OnnxModel
from trtbuild.graph import document
from trtbuild.graph.block_scales.in_floats import compute_blocks_in_floats
from trtbuild.graph.block_scales.operators import DOMAIN
from trtbuild.graph.conv_in_integers import convolve_codes
from trtbuild.graph.float_kernels import compute_in_float32
from trtbuild.graph.fp8_in_floats import round_activations
from trtbuild.graph.gelu import fuse_gelu
from trtbuild.graph.gemm_as_matmul import split_quantized
from trtbuild.graph.relu_in_codes import clip_codes
from trtbuild.graph.unsigned import use_unsigned_activations

_PASSES = (fuse_gelu, compute_blocks_in_floats, round_activations, split_quantized, compute_in_float32)


def understood(model: OnnxModel, folder: Path) -> OnnxModel:
    """The model as it is written, but for operators that no kernel here has: those are spelled out, in `folder`."""
    graph = document.load(model.main)
    if DOMAIN not in graph.opset_imports:
        return model
    compute_blocks_in_floats(graph)
    document.save(graph, written := OnnxModel(folder))
    return written


def lowered(model: OnnxModel, folder: Path) -> OnnxModel:
    """The model as it is to be optimized: written to `folder`, or the model itself where nothing changed."""
    graph = document.load(model.main)
    passes = [*_PASSES]
    if platform.machine() in ("x86_64", "AMD64"):
        passes.append(use_unsigned_activations)
    # Behind the choice of sign: a bound is a code, and unsigned codes alone are convolved fast.
    passes += [clip_codes, convolve_codes]
    changes = [rewrite(graph) for rewrite in passes]
    if not any(changes):
        return model
    folder.mkdir()
    document.save(graph, written := OnnxModel(folder))
    return written
