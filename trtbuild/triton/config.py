"""An engine's interface and a person's options, to Triton's ModelConfig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.core.interface import Interface, IoTensor
from trtbuild.triton.options import Batching, QueuePolicy, TritonOptions

DATA_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
"""Triton's word for each element type; it has none for FP8."""

NO_OPTIMIZATION = 2
"""`optimization.graph.level` by which the ONNX Runtime backend leaves a graph as it is; our engines are optimized
already, and for one version. [onnxruntime_backend, src/onnxruntime.cc: ORT_DISABLE_ALL]"""


def model_config(
    interface: Interface,
    options: TritonOptions,
    *,
    name: str,
    backend: str,
    model_file: str,
    tags: Mapping[str, str],
    files_by_capability: Mapping[str, str] | None = None,
) -> pb.ModelConfig:
    """The configuration of one engine, `backend` of which is `tensorrt` or `onnxruntime`.

    `tags` become labels of every metric. `files_by_capability` names an engine by compute capability (`9.0`) where one
    version holds several. Raises ModelError where Triton cannot carry the engine's types, RecipeError where an option
    contradicts the engine.
    """
    batches = interface.batches()
    greatest = _max_batch_size(batches, options)
    config = pb.ModelConfig(
        name=name, backend=backend, max_batch_size=greatest, default_model_filename=model_file, metric_tags=tags
    )
    for kind, tensors, into in (
        (pb.ModelInput, interface.inputs, config.input),
        (pb.ModelOutput, interface.outputs, config.output),
    ):
        into.extend(_tensor(kind, each, tensor, batched=bool(greatest)) for each, tensor in tensors.items())
    config.cc_model_filenames.update(files_by_capability or {})
    config.version_policy.latest.num_versions = options.versions
    offered = _offered(interface, options)
    if greatest and options.batching is not None:
        _batch(config.dynamic_batching, options.batching, [usual for _, usual, _ in batches or []], greatest)
    group = config.instance_group.add(count=options.instances.count, gpus=options.instances.gpus)
    if options.instances.kind != "auto" or backend == "onnxruntime":
        wanted = options.instances.kind if options.instances.kind != "auto" else "cpu"
        group.kind = {"gpu": group.KIND_GPU, "cpu": group.KIND_CPU}[wanted]
    if backend == "onnxruntime":
        config.optimization.graph.level = NO_OPTIMIZATION
    else:
        group.profile.extend(str(index) for index in offered)
        _tensorrt(config, interface, options, offered, batched=bool(greatest))
    if options.warm_up:
        _warm_up(config, interface, offered)
    if options.response_cache:
        config.response_cache.enable = True
    return config


def as_text(config: pb.ModelConfig) -> str:
    """A configuration as config.pbtxt, byte for byte the same for the same values."""
    return str(text_format.MessageToString(config))


def parsed(text: str, file: str) -> pb.ModelConfig:
    """A config.pbtxt as a value. Raises RecipeError where it is none, with the line."""
    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise RecipeError(f"{file}:{error}", hint="compare with Triton's model_config.proto") from error


def _max_batch_size(batches: Sequence[tuple[int, int, int]] | None, options: TritonOptions) -> int:
    """What the server may put together; 0 where the engine has no batch axis."""
    if batches is None:
        if options.max_batch_size is not None:
            raise RecipeError(
                "max_batch_size is set, and the engine has no batch axis that all inputs and outputs share",
                hint="leave it out; the server then passes each request as it came",
            )
        return 0
    greatest = max(most for _, _, most in batches)
    if options.max_batch_size is not None and options.max_batch_size > greatest:
        raise RecipeError(
            f"max_batch_size is {options.max_batch_size}, the engine takes at most {greatest}",
            hint="lower it, or raise the batch axis in the recipe's shapes and build again",
        )
    return options.max_batch_size or greatest


def _tensor(kind: Any, name: str, tensor: IoTensor, *, batched: bool) -> Any:
    """An input or output. One number a row has no dims of its own, which Triton refuses: clients send it as [batch, 1],
    and the engine gets [batch]."""
    made = kind(name=name, data_type=_data_type(name, tensor), dims=tensor.dims[1:] if batched else tensor.dims)
    if not made.dims:
        made.dims.append(1)
        made.reshape.SetInParent()
    return made


def _data_type(name: str, tensor: IoTensor) -> Any:
    if tensor.dtype not in DATA_TYPES:
        raise ModelError(
            f"{name} is {tensor.dtype or 'of unknown type'}, which Triton cannot carry",
            hint="serve a variant whose inputs and outputs have ordinary types",
        )
    return pb.DataType.Value(DATA_TYPES[tensor.dtype])


def _offered(interface: Interface, options: TritonOptions) -> list[int]:
    """The indices of the optimization profiles that instances may use."""
    known = {profile.name: index for index, profile in enumerate(interface.profiles)}
    if options.profiles is None:
        return [*known.values()]
    if unknown := [name for name in options.profiles if name not in known]:
        raise RecipeError(f"the engine has no profile {unknown[0]!r}", hint=f"it has {', '.join(known)}")
    return [known[name] for name in options.profiles]


def _batch(into: Any, batching: Batching, usual: Sequence[int], greatest: int) -> None:
    preferred = batching.preferred_batch_sizes
    if preferred is None:
        preferred = sorted({size for size in usual if 1 < size < greatest})
    if beyond := [size for size in preferred if size > greatest]:
        raise RecipeError(
            f"preferred_batch_sizes has {beyond[0]}, max_batch_size is {greatest}", hint="leave it out, or lower it"
        )
    into.preferred_batch_size.extend(preferred)
    into.max_queue_delay_microseconds = round(1e3 * batching.max_queue_delay_ms)
    into.preserve_ordering = batching.preserve_ordering
    if batching.priority_levels:
        into.priority_levels = batching.priority_levels
        into.default_priority_level = batching.default_priority or (batching.priority_levels + 1) // 2
    if batching.queue != QueuePolicy():
        into.default_queue_policy.CopyFrom(_queue(batching.queue))
    for level, policy in batching.queues.items():
        into.priority_queue_policy[level].CopyFrom(_queue(policy))


def _queue(policy: QueuePolicy) -> pb.ModelQueuePolicy:
    return pb.ModelQueuePolicy(
        timeout_action=pb.ModelQueuePolicy.TimeoutAction.Value(policy.on_timeout.upper()),
        default_timeout_microseconds=round(1e3 * policy.timeout_ms),
        allow_timeout_override=policy.allow_override,
        max_queue_size=policy.max_queue_size,
    )


def _tensorrt(
    config: pb.ModelConfig, interface: Interface, options: TritonOptions, offered: Sequence[int], *, batched: bool
) -> None:
    """What only the TensorRT backend reads."""
    strategy = {"static": "STATIC", "on_profile_change": "ON_PROFILE_CHANGE"}[options.context_memory]
    config.parameters["execution_context_allocation_strategy"].string_value = strategy
    cuda = config.optimization.cuda
    cuda.busy_wait_events, cuda.output_copy_stream = options.cuda.busy_wait, options.cuda.output_copy_stream
    if not options.cuda.graphs:
        return
    cuda.graphs = True
    for shapes in _usual(interface, offered):
        spec = cuda.graph_spec.add(batch_size=next(iter(shapes.values()))[0] if batched else 0)
        for name, shape in shapes.items():
            spec.input[name].dim.extend(shape[1:] if batched else shape)


def _warm_up(config: pb.ModelConfig, interface: Interface, offered: Sequence[int]) -> None:
    """One request of zeros at the usual shapes of each profile."""
    for number, shapes in enumerate(_usual(interface, offered)):
        batch = min(next(iter(shapes.values()))[0], config.max_batch_size) if config.max_batch_size else 0
        sample = config.model_warmup.add(name=f"profile {offered[number]}", batch_size=batch)
        for name, shape in shapes.items():
            sample.inputs[name].data_type = _data_type(name, interface.inputs[name])
            sample.inputs[name].dims.extend((shape[1:] or [1]) if config.max_batch_size else shape)
            sample.inputs[name].zero_data = True


def _usual(interface: Interface, offered: Sequence[int]) -> list[dict[str, list[int]]]:
    """The usual shapes of the offered profiles, by input, each set once."""
    found: list[dict[str, list[int]]] = []
    for index in offered:
        shapes = {name: usual for name, (_, usual, _) in interface.profiles[index].ranges.items()}
        if shapes not in found:
            found.append(shapes)
    return found
