"""The key-value cache as a target keeps it: how far keys and values reach, then the graph's cache in its mode."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.kv_cache import CacheMode, KvCache
from trtbuild.core.results import Coverage, LayerCoverage
from trtbuild.core.roles import CacheObserver, Loader
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options

CACHE = "cache."
"""How coverage names a layer's cache: `cache.0`, as its tensors are named."""
CACHE_FORMAT = "kv_"
"""Before a cache's mode, what coverage calls its format: `kv_int8`."""


class CalibrateCacheOptions(Options):
    """What calibrating the cache decides."""

    percentile: float = Field(default=99.99, gt=50.0, le=100.0)
    """Of a head's magnitudes, how many percent a static scale must reach; the rest is clipped. 100 clips nothing, and
    lets one outlier make all other tokens coarse."""


@stage(version=1)
def calibrate_cache(
    source: PythonSource | HuggingFaceSource,
    calibration: Samples,
    options: CalibrateCacheOptions,
    loader: Loader,
    observer: CacheObserver,
    work: Workspace,
) -> QuantizationPlan:
    """Observe the range of keys and values by head.

    Raises DataError where there are no samples.
    """
    from trtbuild.core.quantization import Plan  # numpy and safetensors: a plan must not load them
    from trtbuild.core.tensor_file import Batches

    batches = Batches(calibration.main)
    if not batches:
        raise DataError(
            "static scales of a KV cache need calibration samples and the recipe asks for none",
            hint="set data.calibration to the number of texts, for example 64; kv_cache: int8 needs none",
        )
    ranges = observer.observe_cache(loader.load(source), batches, options.percentile)
    plan = work.new(QuantizationPlan)
    rows = sum(len(next(iter(batch.values()))) for batch in batches)
    Plan(modules={}, cache=ranges, samples=rows).write(plan)
    return plan


class CacheOptions(Options):
    """How the cache is kept."""

    mode: CacheMode = "float"
    """`float` (FP16); `int8`: a scale for each token and head, found as tokens come; `int8_static` and `fp8` (E4M3): a
    scale for each head, found by calibration."""
    exclude: list[int] = []
    """Layers whose cache stays FP16; -1 is the last one."""


class CacheQuantized(NamedTuple):
    """The graph with the quantized cache, and coverage with the layers whose cache was asked for."""

    model: OnnxModel
    coverage: Coverage


@stage(version=1)
def quantize_cache(
    model: OnnxModel, coverage: Coverage | None, plan: QuantizationPlan | None, options: CacheOptions, work: Workspace
) -> CacheQuantized:
    """Quantize the graph's KV cache.

    `plan` holds the ranges of the modes with static scales. Raises ModelError where a layer to exclude does not exist.
    """
    from trtbuild.core.quantization import Plan
    from trtbuild.graph import document
    from trtbuild.graph.kv_cache.quantize import quantize_cache as rewrite

    layout, graph = KvCache.read(model.path), document.load(model.main)
    ranges = None if plan is None else Plan.read(plan).cache
    quantized = rewrite(graph, layout, options.mode, ranges, _layers(options.exclude, layout.layers))
    written = work.new(OnnxModel)
    model.give_companions(written.path)
    quantized.write(written.path)
    document.save(graph, written)
    asked = [
        LayerCoverage(module=f"{CACHE}{layer}", format=f"{CACHE_FORMAT}{options.mode}", inserted=True)
        for layer in range(layout.layers)
        if layer not in quantized.excluded
    ]
    before = coverage or Coverage()
    return CacheQuantized(written, before.model_copy(update={"layers": [*before.layers, *asked]}))


@stage(version=1)
def use_native_cache(model: OnnxModel, work: Workspace) -> OnnxModel:
    """Write the FP16 cache in ONNX's own operators.

    For targets that have them, and need no plugin then. Raises ModelError where the graph's opset is older than 21.
    """
    from trtbuild.graph import document
    from trtbuild.graph.kv_cache.native import native_cache

    graph = document.load(model.main)
    native_cache(graph, KvCache.read(model.path))
    written = work.new(OnnxModel)
    model.give_companions(written.path)
    document.save(graph, written)
    return written


def _layers(asked: list[int], count: int) -> list[int]:
    if unknown := [layer for layer in asked if not -count <= layer < count]:
        raise ModelError(
            f"kv_cache.exclude names layer {unknown[0]}, and the model has {count}",
            hint=f"layers are 0 to {count - 1}, or -1 for the last one",
        )
    return [layer % count for layer in asked]


def kept_in(mode: str) -> Literal["int8", "float8_e4m3fn"]:
    """The element type of a quantized cache, as an engine's interface spells it."""
    return "float8_e4m3fn" if mode == "fp8" else "int8"
