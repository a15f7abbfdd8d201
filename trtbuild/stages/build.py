"""ONNX to engine."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.decoder_shapes import with_cache
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.interface import Interface
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.results import UNTOLD, Coverage, LayerCoverage
from trtbuild.core.roles import Compiler, Precisions
from trtbuild.core.stage import Resources, Workspace, stage
from trtbuild.core.tensors import Shapes
from trtbuild.stages.quantize_cache import CACHE, CACHE_FORMAT, kept_in
from trtbuild.stages.tensorrt_options import TensorRTOptions


class BuildOptions(TensorRTOptions):
    """How the engine is built: what ONNX Runtime reads, then what TensorRT reads."""

    threads: int = 0
    """ONNX Runtime: threads the engine may use for one call; 0 means all cores."""
    tactics: Literal["measure", "default"] = "measure"
    """ONNX Runtime: `measure` builds the candidates that differ in fusions and keeps the fastest here; `default` takes
    the first."""

    def read_by(self, backend: str) -> BuildOptions:
        """What one backend reads of these, the rest at its defaults: another backend's options change no engine."""
        names = set(TensorRTOptions.model_fields)
        if backend != "tensorrt":
            names = set(BuildOptions.model_fields) - names
        return BuildOptions(**{name: getattr(self, name) for name in BuildOptions.model_fields if name in names})


class Built(NamedTuple):
    """The engine, and the coverage with what really runs."""

    engine: Engine
    coverage: Coverage


@stage(version=3, resources=Resources(exclusive=True))
def build(
    model: OnnxModel,
    coverage: Coverage | None,
    shapes: Shapes,
    options: BuildOptions,
    compiler: Compiler,
    work: Workspace,
) -> Built:
    """Build an engine for this machine."""
    engine = work.new(Engine)
    layout = KvCache.of(model.path)
    compiler.compile(model, shapes if layout is None else with_cache(shapes, layout), options, engine)
    model.give_companions(engine.path)
    caches = {} if layout is None else _caches(Interface.read(engine.path), layout)
    return Built(engine, with_precisions(coverage or Coverage(), compiler.precisions(engine), caches))


_SEVERAL = re.compile(r" and |, then ")
"""Between the precisions of a module's calls, or of an attention's two products."""
_NAMED = re.compile(r"(?P<module>.+)/[A-Z]\w*")
"""`<module path>/<operator>`, as `trtbuild.graph.naming` spells the names of nodes."""


def runs_in(form: str) -> tuple[str, ...]:
    """What an engine may say of a layer for it to have run as `form` asks, a format or a coverage's special one.

    FP8 and FP4 may be emulated: their numbers in float arithmetic, which is what a processor without them can do. An
    INT8 layer must run in integers, since every processor can.
    """
    if form == "embedding_int8":
        return ("int8 table",)
    if form.startswith("attention_"):
        return _both(form.removeprefix("attention_"))
    if form.startswith(CACHE_FORMAT):
        return (f"{kept_in(form.removeprefix(CACHE_FORMAT))} cache",)
    traits = FORMATS[cast(Format, form)]
    if traits.activation is None:
        return (f"{traits.weight} weights",)
    if traits.activation == traits.weight:
        return _both(traits.weight)
    return (f"{traits.weight} weights, {traits.activation} activations",)


def _both(number_type: str) -> tuple[str, ...]:
    if number_type == "int8":
        return ("int8",)
    return (number_type, *(f"{number_type} in {floats}" for floats in ("float32", "float16", "bfloat16", "float")))


def with_precisions(coverage: Coverage, precisions: Precisions, caches: dict[str, str]) -> Coverage:
    """Fill in the third column: the precision in which the engine runs each module's matrix product, or keeps a
    layer's cache."""
    asked = {layer.module for layer in coverage.layers}
    layers, attention = _by_module(precisions.layers, asked), _by_module(precisions.attention, asked)

    def ran(layer: LayerCoverage) -> str:
        special = {"attention_": attention, CACHE_FORMAT: caches}
        found = next((its for prefix, its in special.items() if layer.format.startswith(prefix)), layers)
        return found.get(layer.module, "")

    return coverage.model_copy(update={"layers": [_ran(layer, ran(layer)) for layer in coverage.layers]})


def _caches(interface: Interface, layout: KvCache) -> dict[str, str]:
    """What the engine keeps each layer's keys and values in, by the types of its own inputs."""
    kept = {
        f"{CACHE}{layer}": dict.fromkeys(interface.inputs[tensor.name].dtype for tensor in layout.tensors(layer)[:2])
        for layer in range(layout.layers)
    }
    return {layer: f"{' and '.join(types)} cache" for layer, types in kept.items()}


def _by_module(precisions: dict[str, str], asked: set[str]) -> dict[str, str]:
    """The precision of each module; several, where its calls differ. A node that is asked for by its own name stands
    for itself alone."""
    found: dict[str, list[str]] = {}
    for node, precision in precisions.items():
        match = _NAMED.fullmatch(node)
        found.setdefault(node if match is None or node in asked else match["module"], []).append(precision)
    return {module: " and ".join(dict.fromkeys(its)) for module, its in found.items()}


def _ran(layer: LayerCoverage, ran: str) -> LayerCoverage:
    reason, wanted = layer.reason, runs_in(layer.format)
    if layer.inserted and not ran:
        reason = "the engine has no node of this name: it was fused away or renamed"
    elif layer.inserted and not {*_SEVERAL.split(ran)} <= {UNTOLD, *wanted}:
        reason = f"the engine runs it in {ran}, {layer.format} means {wanted[0]}: no such kernel took it"
    return layer.model_copy(update={"ran": ran, "reason": reason})
