"""Weight formats and KV modes combine freely on decoders: all that was asked is inserted and runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.decoders import SHAPES, build, export, logits_of, lower, teacher_forced, token_ids
from trtbuild.backends import fake_quantization
from trtbuild.backends.decoder.ranges import observe_ranges
from trtbuild.backends.modelopt.calibrator import ModelOpt
from trtbuild.backends.onnxruntime.backend import ENGINE_FILE, OnnxRuntime
from trtbuild.core.artifacts import Engine, OnnxModel, QuantizationPlan
from trtbuild.core.decoder_shapes import with_cache
from trtbuild.core.dialects import ONNX_RUNTIME
from trtbuild.core.formats import FORMATS as TRAITS
from trtbuild.core.formats import Format
from trtbuild.core.kv_cache import CacheMode, KvCache
from trtbuild.core.quantization import ModuleQuantization, Plan, shared_scale
from trtbuild.core.results import Coverage
from trtbuild.graph import document, insertion
from trtbuild.graph.kv_cache.attach import attach
from trtbuild.graph.kv_cache.quantize import quantize_cache
from trtbuild.stages.build import BuildOptions, with_precisions
from trtbuild.stages.calibrate import CalibrateOptions

CAPACITY = 32
IDS = token_ids(3, CAPACITY)
FAMILIES: dict[str, dict[str, Any]] = {"llama": {}, "qwen2": {}}
FORMATS: list[Format] = ["int8_sq", "fp8", "int4_awq", "w8a16"]
LIMITS: dict[CacheMode, float] = {"float": 1e-4, "int8": 0.25, "int8_static": 0.3, "fp8": 0.4}
"""How far the logits may be from those of the module with the same numbers in fake quantization and no cache. Weights
are random, the worst that weights can be."""
READERS = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]
"""Projections that read one tensor."""
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Prepared:
    """One family's export with a float cache, what its module says, and its plans by format."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.folder = family, folder
        self.truth = logits_of(self.module(), IDS)
        self.exported = export(self.module(), folder / "exported.onnx")
        self.ranges = observe_ranges(self.module(), [{"input_ids": IDS}])
        self._plans: dict[Format, Plan] = {}
        self._fakes: dict[Format, np.ndarray[Any, Any]] = {}

    def module(self) -> Any:
        return build(self.family, **FAMILIES[self.family])

    def plan(self, form: Format) -> Plan:
        if form not in self._plans:
            written = QuantizationPlan(self.folder / form)
            written.path.mkdir()
            options = CalibrateOptions(format=form, alpha=0.5, block_size=16)
            ModelOpt().calibrate(self.module(), options, [{"input_ids": IDS}], written)
            self._plans[form] = Plan.read(written)
        return self._plans[form]

    def fake(self, form: Format) -> np.ndarray[Any, Any]:
        """Logits of the module, its linears computed in fake quantization with the plan's numbers."""
        if form not in self._fakes:
            self._fakes[form] = self._fake(form)
        return self._fakes[form]

    def _fake(self, form: Format) -> np.ndarray[Any, Any]:
        module, plan = self.module(), self.plan(form).modules
        for path in plan.keys() - {"lm_head"}:
            layer, (parent, _, name) = module.get_submodule(path), path.rpartition(".")
            readers = next(group for group in (*READERS, (name,)) if name in group)
            numbers = together(plan[path], [plan[f"{parent}.{reader}"] for reader in readers], layer.weight)
            layer.forward = functools.partial(fake_quantization.output, layer, numbers=numbers)
        return logits_of(module, IDS)

    def decoder(self) -> tuple[ir.Model, KvCache]:
        graph = document.load(self.exported)
        return graph, attach(graph, CAPACITY)


def together(mine: ModuleQuantization, readers: list[ModuleQuantization], weight: Any) -> ModuleQuantization:
    """The numbers of a layer that shares its smoothed input with others: ranges follow what W becomes."""
    if mine.pre_quant_scale is None:
        return mine
    scale = shared_scale(np.stack([numbers.pre_quant_scale for numbers in readers]), TRAITS[mine.format].algorithm)

    def greatest(divisor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        divided = np.abs(weight.detach().numpy() / divisor)
        size = mine.block_size or divided.shape[1]
        return divided.reshape(len(divided), -1, size).max(-1).reshape(mine.weight_amax.shape)

    amax = mine.weight_amax * greatest(scale) / greatest(mine.pre_quant_scale)
    channels = [numbers.input_channel_amax for numbers in readers]
    reached = None if mine.input_amax is None else (np.max(channels, axis=0) * scale).max()
    return replace(mine, pre_quant_scale=scale, weight_amax=amax, input_amax=reached)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    made: dict[str, Prepared] = {}

    def of(family: str) -> Prepared:
        if family not in made:
            made[family] = Prepared(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


def compiled(model: ir.Model, layout: KvCache, coverage: Coverage, folder: Path) -> tuple[Path, Coverage]:
    """The engine that ONNX Runtime makes of the model, and what it says it runs."""
    written, engine = OnnxModel(folder / "model"), Engine(folder / "engine")
    for artifact in (written, engine):
        artifact.path.mkdir()
    document.save(model, written)
    onnx.checker.check_model(written.main, full_check=True)
    options = BuildOptions(threads=1, tactics="default")
    OnnxRuntime().compile(written, with_cache(SHAPES, layout), options, engine)
    return engine.path / ENGINE_FILE, with_precisions(coverage, OnnxRuntime().precisions(engine), {})


@pytest.mark.parametrize("mode", get_args(CacheMode))
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_format_runs_with_every_cache(
    family: str, form: Format, mode: CacheMode, prepared: Callable[[str], Prepared], tmp_path: Path
) -> None:
    ready = prepared(family)
    model, layout = ready.decoder()
    coverage = insertion.insert(model, ready.plan(form), dialect=ONNX_RUNTIME)
    layout = quantize_cache(model, layout, mode, ready.ranges)
    engine, coverage = compiled(model, layout, coverage, tmp_path)
    names = {name.rpartition(".")[2] for name in (layer.module for layer in coverage.layers)}
    assert names == set(LINEARS)
    assert coverage.asked == coverage.inserted == coverage.ran == 2 * len(LINEARS), coverage
    assert list(coverage.kept_high) == ["lm_head"]
    error = teacher_forced(engine, layout, IDS, ready.fake(form))
    assert error <= LIMITS[mode]
    assert (error > LIMITS["float"]) == (mode != "float")


@pytest.mark.parametrize("form", ["int8_sq", "int4_awq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scales_fold_into_norms_and_projections(family: str, form: Format, prepared: Callable[[str], Prepared]) -> None:
    """Query, key and value share one scale, as do gate and up; down's goes into up. What o_proj reads is attention's
    output, whose scale the value projection takes where each of its heads serves one query head."""
    model, _ = prepared(family).decoder()
    coverage = insertion.insert(model, prepared(family).plan(form), dialect=ONNX_RUNTIME)
    assert coverage.smoothing_left == [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)]
    assert coverage.smoothing_folded == 2 * len(LINEARS) - 2
    left = [node.name for node in model.graph if "Mul_smooth" in (node.name or "")]
    assert left == [f"model.layers.{layer}.self_attn.o_proj/Mul_smooth" for layer in (0, 1)]


def test_a_decoder_in_fp16_folds_as_one_in_fp32_does(prepared: Callable[[str], Prepared], tmp_path: Path) -> None:
    ready = prepared("llama")
    path, layout = lower(ready.exported, tmp_path / "fp16", CAPACITY)
    model = document.load(path)
    coverage = insertion.insert(model, ready.plan("int8_sq"))
    assert coverage.inserted == 2 * len(LINEARS)
    assert coverage.smoothing_left == [f"model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)]
    layout = quantize_cache(model, layout, "int8")
    (tmp_path / "engine").mkdir()
    engine, coverage = compiled(model, layout, coverage, tmp_path / "engine")
    assert coverage.inserted == 2 * len(LINEARS)
    assert teacher_forced(engine, layout, IDS, ready.fake("int8_sq")) <= LIMITS["int8"]


@pytest.mark.parametrize("mode", ["int8", "fp8"])
def test_cache_first_or_weights_first_is_the_same(mode: CacheMode, prepared: Callable[[str], Prepared]) -> None:
    ready, made = prepared("llama"), []
    for cache_first in (True, False):
        model, layout = ready.decoder()
        for turn in (cache_first, not cache_first):
            if turn:
                layout = quantize_cache(model, layout, mode, ready.ranges)
            else:
                insertion.insert(model, ready.plan("int8_sq"), dialect=ONNX_RUNTIME)
        made.append(ir.to_proto(model))
    first, second = made
    assert list(first.graph.node) == list(second.graph.node)
    assert (first.graph.input, first.graph.output) == (second.graph.input, second.graph.output)
    assert {tensor.name: tensor for tensor in first.graph.initializer} == {
        tensor.name: tensor for tensor in second.graph.initializer
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_quantized_when_they_are_included(
    family: str, prepared: Callable[[str], Prepared], tmp_path: Path
) -> None:
    """Tied to the embedding (Qwen2) or not (Llama): the table that tokens are looked up in stays as it is."""
    ready = prepared(family)
    model, layout = ready.decoder()
    coverage = insertion.insert(model, ready.plan("w8a16"), include=["lm_head"], dialect=ONNX_RUNTIME)
    engine, coverage = compiled(model, layout, coverage, tmp_path)
    assert coverage.asked == coverage.inserted == coverage.ran == 2 * len(LINEARS) + 1
    tables = {str(node.inputs[0].dtype) for node in model.graph if node.name == "model.embed_tokens/Gather"}
    assert tables == {"FLOAT"}
    assert teacher_forced(engine, layout, IDS, ready.truth) <= 0.1
