"""What is wrong with a ModelConfig although it parses.

The server finds some of it, when it loads the model; a few it never mentions and serves something else. Which one finds
what was measured with Triton 2.51, one wrong configuration after another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

MODEL_WIDE_DIMS = 3
"""Dimensions that FORMAT_NHWC and FORMAT_NCHW need, the batch not counted."""


def problems(
    config: Any, *, folder: str, versions: Collection[int] = (), files: Collection[str] = (), cached: bool | None = None
) -> list[str]:
    """Everything wrong with a ModelConfig in a model folder of this name, in sentences; empty where it is right.

    `versions` and `files` are what the folder holds; `cached` says whether the server has a response cache, None where
    nobody knows.
    """
    return [
        *_identity(config, folder),
        *_tensors(config),
        *_batching(config),
        *_references(config),
        *_folder(config, versions, files),
        *_cache(config, cached),
    ]


def _identity(config: Any, folder: str) -> Iterator[str]:
    if config.name and config.name != folder:
        yield f"name is {config.name!r}, its folder is {folder!r}: the server refuses it"
    platforms = {"tensorrt_plan": "tensorrt", "onnxruntime_onnx": "onnxruntime"}
    if config.platform and config.backend and platforms.get(config.platform, config.backend) != config.backend:
        yield f"platform {config.platform} and backend {config.backend} contradict each other"
    if not (config.platform or config.backend or config.HasField("ensemble_scheduling")):
        yield "it names no backend: the server then guesses from file names"


def _tensors(config: Any) -> Iterator[str]:
    for kind, tensors in (("input", config.input), ("output", config.output)):
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield f"{kind} {name} is there {count} times: the server loads it and serves the last"
        for tensor in tensors:
            yield from _tensor(f"{kind} {tensor.name}", tensor)
    inputs = {tensor.name for tensor in config.input}
    if both := sorted(inputs & {tensor.name for tensor in config.output}):
        yield f"{both[0]} is an input and an output"


def _tensor(name: str, tensor: Any) -> Iterator[str]:
    if tensor.data_type == 0:
        yield f"{name} has no data_type"
    if not tensor.dims:
        yield f"{name} has no dims"
    for dim in tensor.dims:
        if dim == 0 or dim < -1:
            yield f"{name} has a dimension of {dim}: lengths are positive, or -1 where requests decide"
    if (
        tensor.HasField("reshape")
        and -1 not in tensor.dims
        and math.prod(tensor.reshape.shape) != math.prod(tensor.dims)
    ):
        yield f"{name} is reshaped from {list(tensor.dims)} to {list(tensor.reshape.shape)}, of another size"
    if getattr(tensor, "format", 0) and len(tensor.dims) != MODEL_WIDE_DIMS:
        yield f"{name} has an image format and {len(tensor.dims)} dims; it needs three"


def _batching(config: Any) -> Iterator[str]:
    if config.max_batch_size < 0:
        yield f"max_batch_size is {config.max_batch_size}"
    if not config.HasField("dynamic_batching"):
        return
    batching = config.dynamic_batching
    if config.max_batch_size == 0:
        yield "dynamic_batching needs a max_batch_size: the server loads it and never batches"
    for size in batching.preferred_batch_size:
        if not 1 <= size <= config.max_batch_size:
            yield f"preferred_batch_size {size} is outside 1 to max_batch_size, {config.max_batch_size}"
    levels = batching.priority_levels
    if levels and not 1 <= batching.default_priority_level <= levels:
        yield f"default_priority_level is {batching.default_priority_level}, outside 1 to priority_levels, {levels}"
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            yield f"priority_queue_policy names level {level}, outside 1 to priority_levels, {levels}"
    if batching.preserve_ordering and levels > 1:
        yield "preserve_ordering cannot be kept with several priority levels"


def _references(config: Any) -> Iterator[str]:
    """Names inside the configuration that must be inputs."""
    inputs = {tensor.name for tensor in config.input}
    for spec in config.optimization.cuda.graph_spec:
        for name in sorted(spec.input.keys() - inputs):
            yield f"a CUDA graph_spec names {name}, which is no input: only the TensorRT backend would object"
        if config.max_batch_size and not 1 <= spec.batch_size <= config.max_batch_size:
            yield f"a CUDA graph_spec has batch_size {spec.batch_size}, outside 1 to max_batch_size"
    for warm_up in config.model_warmup:
        for name in sorted(warm_up.inputs.keys() - inputs):
            yield f"warm-up {warm_up.name} names {name}, which is no input"
        for name in sorted(inputs - warm_up.inputs.keys()):
            yield f"warm-up {warm_up.name} lacks input {name}"
        if warm_up.batch_size > config.max_batch_size:
            beyond = f"batch_size {warm_up.batch_size}, max_batch_size is {config.max_batch_size}"
            yield f"warm-up {warm_up.name} has {beyond}"
    for batch_input in config.batch_input:
        for name in batch_input.source_input:
            if name not in inputs:
                yield f"batch_input {', '.join(batch_input.target_name)} reads {name}, which is no input"
    for step in config.ensemble_scheduling.step:
        if not step.input_map or not step.output_map:
            yield f"ensemble step {step.model_name} has an empty input_map or output_map"


def _folder(config: Any, versions: Collection[int], files: Collection[str]) -> Iterator[str]:
    if config.version_policy.HasField("specific") and versions:
        for version in config.version_policy.specific.versions:
            if version not in versions:
                yield f"version_policy asks for version {version}, the folder has {sorted(versions)}"
    for tensor in config.output:
        if tensor.label_filename and tensor.label_filename not in files:
            yield f"output {tensor.name} has labels in {tensor.label_filename}, which is not there"


def _cache(config: Any, cached: bool | None) -> Iterator[str]:
    if not config.response_cache.enable:
        return
    if config.model_transaction_policy.decoupled:
        yield "response_cache cannot hold the answers of a decoupled model"
    if cached is False:
        yield "response_cache is on and the server has no cache: it loads and caches nothing (--cache-config)"
