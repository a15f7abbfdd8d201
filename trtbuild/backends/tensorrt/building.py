"""From an ONNX model to a plan: parse, configure, build, keep the timing cache, ask the engine what it became."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from trtbuild.backends.tensorrt import lowering, memory, own_plugins, parsing, plan, timing_cache
from trtbuild.backends.tensorrt.configuration import configure, run_script
from trtbuild.backends.tensorrt.cuda import driver
from trtbuild.backends.tensorrt.element_types import numpy_type
from trtbuild.backends.tensorrt.library import Messages, listening_logger, load, load_plugins, need_gpu
from trtbuild.backends.tensorrt.loading import LoadedPlan
from trtbuild.backends.tensorrt.nodes import nodes_of
from trtbuild.backends.tensorrt.plan import LAYERS_FILE, NODES_FILE, PLAN_FILE, Manifest
from trtbuild.backends.tensorrt.profiles import Profile, add_profiles, profiles_of
from trtbuild.backends.tensorrt.progress import watch
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.dialects import dialect_of
from trtbuild.core.errors import ModelError
from trtbuild.core.interface import Interface, IoTensor, ProfileRange
from trtbuild.core.tensors import Shapes
from trtbuild.graph import document

if TYPE_CHECKING:
    import tensorrt

REMEDIES = (
    (
        re.compile(r"find any implementation|no implementation", re.IGNORECASE),
        "raise engine.workspace_mb, allow more engine.tactic_sources, or leave that node in another precision",
    ),
    (
        re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|insufficient memory", re.IGNORECASE),
        "end what else uses the GPU, lower engine.workspace_mb, or build for smaller shapes",
    ),
    (re.compile(r"cublas|cudnn", re.IGNORECASE), "set engine.tactic_sources without that library, or install it"),
    (re.compile(r"timing cache", re.IGNORECASE), "build once with error_on_timing_cache_miss: false"),
)
"""What TensorRT says when a build fails, and what helps."""


def build(model: OnnxModel, shapes: Shapes, options: Any, engine: Engine) -> None:
    """Write `engine`: its plan, manifest, layers and nodes. Raises ModelError, RecipeError or BackendMissing."""
    trt, device = load(), need_gpu()
    dialect = dialect_of("tensorrt", trt.__version__)
    profiles = profiles_of(shapes, options.profiles)
    graph = document.load(model.main)
    outputs = {value.name or "": _numpy_name(value) for value in graph.graph.outputs}
    driver().make_current()
    need = memory.estimate(graph, shapes)
    print(f"{need}; the GPU has {driver().free_bytes() / 1e6:.0f} MB free", flush=True)
    memory.check(need, driver().free_bytes(), streams_weights=options.weight_streaming)

    messages = Messages()
    logger = listening_logger(trt, messages)
    load_plugins(trt, logger, options.plugins)
    own_plugins.register(trt, graph.graph, device, options.preview_features)
    scratch = engine.path / "lowered"
    parsed = lowering.lowered(model, graph, dialect, scratch, plugin_operators(trt))
    try:
        builder: tensorrt.Builder = trt.Builder(logger)
        read = parsing.parse(trt, builder, dialect, parsed.main, graph, logger, messages)
        config = builder.create_builder_config()
        flags = configure(trt, config, options, dialect, parsing.content(trt, read.network))
        add_profiles(builder, read.network, config, profiles)
        file = timing_cache.path_of(options.timing_cache, trt.__version__, device)
        attached = timing_cache.attach(config, file, options.error_on_timing_cache_miss)
        watching = watch(trt, config)
        run_script(options, builder, read.network, config)
        serialized = builder.build_serialized_network(read.network, config)
        if serialized is None:
            raise failed(trt.__version__, messages)
        if file is not None and attached is not None and not options.error_on_timing_cache_miss:
            timing_cache.keep(config, file)
        del watching  # TensorRT calls it to the end of the build
    finally:
        lowering.discard(parsed, scratch)

    content = memoryview(serialized).cast("B")
    (engine.path / PLAN_FILE).write_bytes(content)
    (engine.path / NODES_FILE).write_text(nodes_of(graph.graph).model_dump_json(indent=1) + "\n")
    manifest = Manifest(
        tensorrt=trt.__version__,
        cuda=device.cuda,
        driver=device.driver,
        gpu=device.name,
        sm=device.sm,
        multiprocessors=device.multiprocessors,
        memory_mb=device.memory_mb,
        plan_sha256=plan.digest(content),
        plan_bytes=content.nbytes,
        plan_header=_header(content),
        timing_cache_sha256=attached.sha256 if attached is not None else "",
        dialect=dialect.name,
        precision_flags=flags,
        profiles=[_recorded(profile) for profile in profiles],
        outputs=outputs,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        weight_streaming=options.weight_streaming,
        plugins=[] if options.serialize_plugins else [str(plugin.absolute()) for plugin in options.plugins],
        device_memory_bytes=0,
        estimated_weights_bytes=need.weights_bytes,
        estimated_activations_bytes=need.activations_bytes,
    )
    loaded = LoadedPlan(serialized, manifest)
    try:
        (engine.path / LAYERS_FILE).write_text(inspected(loaded))
        interface(loaded).write(engine.path)
        manifest = manifest.model_copy(update={"device_memory_bytes": loaded.device_memory_bytes})
    finally:
        loaded.close()
    engine.main.write_text(manifest.model_dump_json(indent=1) + "\n")


def interface(loaded: LoadedPlan) -> Interface:
    """What a loaded plan takes and gives: its own types, which are narrower than the model's on 8.6."""
    inputs: dict[str, IoTensor] = {}
    outputs: dict[str, IoTensor] = {}
    for index in range(loaded.engine.num_io_tensors):
        name = loaded.engine.get_tensor_name(index)
        dtype = numpy_type(loaded.engine.get_tensor_dtype(name).name, name)
        tensor = IoTensor(dtype=str(dtype), dims=list(loaded.engine.get_tensor_shape(name)))
        is_input = loaded.engine.get_tensor_mode(name) == loaded.trt.TensorIOMode.INPUT
        (inputs if is_input else outputs)[name] = tensor
    return Interface(inputs=inputs, outputs=outputs, profiles=loaded.manifest.profiles)


def inspected(loaded: LoadedPlan) -> str:
    """What the engine inspector says of a loaded plan, as JSON."""
    inspector = loaded.engine.create_engine_inspector()
    return str(inspector.get_engine_information(loaded.trt.LayerInformationFormat.JSON))


def plugin_operators(trt: Any) -> set[str]:
    """The operators that registered plugins take, by name."""
    registry = trt.get_plugin_registry()
    creators = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    return {creator.name for creator in creators}


def failed(version: str, messages: Messages) -> ModelError:
    """The error for a build that TensorRT gave up, in its own words."""
    said = messages.essence()
    hint = next((remedy for pattern, remedy in REMEDIES if pattern.search(said)), "the step's log has all it said")
    return ModelError(f"TensorRT {version} cannot build the engine: {said}", hint=hint)


def _header(content: memoryview) -> str:
    """The version in the plan's header; empty, and said, where this TensorRT writes another header."""
    try:
        return plan.header_version(content, PLAN_FILE)
    except ModelError as error:
        print(f"{error.message}: the plan's header will not be checked", flush=True)
        return ""


def _recorded(profile: Profile) -> ProfileRange:
    ranges = {}
    for name, (least, usual, greatest) in profile.ranges.items():
        ranges[name] = ([*least], [*usual], [*greatest])
    return ProfileRange(name=profile.name, ranges=ranges)


def _numpy_name(value: ir.Value) -> str:
    return "" if value.dtype is None else str(value.dtype.numpy())
