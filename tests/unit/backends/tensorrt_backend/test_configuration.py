"""Options to calls of the builder's configuration, in the names of real versions."""

from __future__ import annotations

import pytest

from tests.tensorrt_api import records
from tests.tensorrt_api.recording import enumerations, recording_config
from trtbuild.backends.tensorrt.configuration import configure, precision_flags, run_script, without_missing
from trtbuild.core.dialects import TENSORRT_8, TENSORRT_10, TENSORRT_11, dialect_of
from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.core.sources import PythonSource
from trtbuild.stages.tensorrt_options import TensorRTOptions

RECORDS = records()
VERSIONS = list(RECORDS)


def configured(version: str, holds: set[str] = frozenset(), sources: int = 0, **options: object):
    record = RECORDS[version]
    trt, config = enumerations(record), recording_config(record, sources)
    dialect = dialect_of("tensorrt", version)
    flags = configure(trt, config, TensorRTOptions(**options), dialect, frozenset(holds))
    return trt, config, flags


@pytest.mark.parametrize("version", VERSIONS)
def test_by_default_only_the_verbosity_is_set(version: str) -> None:
    trt, config, flags = configured(version)
    assert config.said == []
    assert config.given == {"profiling_verbosity": trt.ProfilingVerbosity.DETAILED}
    assert flags == []


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_every_option_reaches_the_configuration(version: str) -> None:
    trt, config, _ = configured(
        version,
        optimization_level=5,
        workspace_mb=4096,
        tactic_memory_mb=100,
        tactic_shared_memory_kb=48,
        auxiliary_streams=0,
        max_tactics=7,
        timing_iterations=4,
        tiling="fast",
        error_on_timing_cache_miss=True,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        exclude_lean_runtime=True,
        refit="identical",
        strip_plan=True,
        weight_streaming=True,
        sparsity=True,
        tf32=False,
        preview_features=["ALIASED_PLUGIN_IO_10_03"],
        plugins=["libours.so"],
        serialize_plugins=True,
        tactic_sources=["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"],
    )
    flags = {call[1].name for call in config.said if call[0] == "set_flag"}
    assert flags == {
        "ERROR_ON_TIMING_CACHE_MISS",
        "VERSION_COMPATIBLE",
        "EXCLUDE_LEAN_RUNTIME",
        "STRIP_PLAN",
        "WEIGHT_STREAMING",
        "SPARSE_WEIGHTS",
        "REFIT_IDENTICAL",
    }
    assert ("clear_flag", trt.BuilderFlag.TF32) in config.said
    assert ("set_memory_pool_limit", trt.MemoryPoolType.WORKSPACE, 4 << 30) in config.said
    assert ("set_memory_pool_limit", trt.MemoryPoolType.TACTIC_SHARED_MEMORY, 48 << 10) in config.said
    assert ("set_preview_feature", trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True) in config.said
    sources = 1 << trt.TacticSource.EDGE_MASK_CONVOLUTIONS | 1 << trt.TacticSource.JIT_CONVOLUTIONS
    assert ("set_tactic_sources", sources) in config.said
    assert config.given == {
        "builder_optimization_level": 5,
        "max_aux_streams": 0,
        "max_num_tactics": 7,
        "avg_timing_iterations": 4,
        "tiling_optimization_level": trt.TilingOptimizationLevel.FAST,
        "hardware_compatibility_level": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
        "plugins_to_serialize": ["libours.so"],
    }


@pytest.mark.parametrize(
    ("version", "options", "named"),
    [
        ("8.6.0", {"strip_plan": True}, "engine.strip_plan: TensorRT 8.6.0 has no BuilderFlag.STRIP_PLAN"),
        ("8.6.0", {"max_tactics": 3}, "engine.max_tactics: TensorRT 8.6.0 has no IBuilderConfig.max_num_tactics"),
        ("8.6.0", {"tiling": "fast"}, "engine.tiling: TensorRT 8.6.0 has no TilingOptimizationLevel"),
        ("8.6.0", {"hardware_compatibility": "same_compute_capability"}, "SAME_COMPUTE_CAPABILITY"),
        ("11.4.0.106", {"tactic_sources": ["CUDNN"]}, "has no TacticSource.CUDNN"),
        ("11.4.0.106", {"fp16": True}, "TensorRT 11 takes precision from the graph"),
        ("11.4.0.106", {"preview_features": ["PROFILE_SHARING_0806"]}, "has no PreviewFeature.PROFILE_SHARING_0806"),
    ],
)
def test_what_a_version_lacks_is_an_error_that_names_the_option(version: str, options: dict, named: str) -> None:
    with pytest.raises(RecipeError, match=named) as caught:
        configured(version, **options)
    assert caught.value.hint


def test_tensorrt_8_gets_flags_for_what_the_network_holds() -> None:
    assert precision_flags(TENSORRT_8, None, frozenset()) == []
    assert precision_flags(TENSORRT_8, True, frozenset()) == ["FP16"]
    assert precision_flags(TENSORRT_8, None, frozenset({"fp16"})) == ["FP16"]
    assert precision_flags(TENSORRT_8, None, frozenset({"quantize"})) == ["FP16", "INT8"]
    assert precision_flags(TENSORRT_8, False, frozenset({"quantize"})) == ["INT8"]
    trt, config, flags = configured("8.6.0", {"quantize"})
    assert flags == ["FP16", "INT8"]
    assert ("set_flag", trt.BuilderFlag.INT8) in config.said


@pytest.mark.parametrize("dialect", [TENSORRT_10, TENSORRT_11], ids=lambda dialect: dialect.name)
def test_a_typed_graph_gets_no_flags(dialect) -> None:
    assert precision_flags(dialect, None, frozenset({"fp16", "quantize"})) == []


def test_tactic_sources_whose_library_does_not_load_are_left_out() -> None:
    trt = enumerations(RECORDS["8.6.0"])
    everything = sum(1 << source for source in trt.TacticSource)
    own = 1 << trt.TacticSource.EDGE_MASK_CONVOLUTIONS | 1 << trt.TacticSource.JIT_CONVOLUTIONS
    assert without_missing(trt, everything, lambda file: False) == (own, ["CUBLAS", "CUBLAS_LT", "CUDNN"])
    mask, missing = without_missing(trt, everything, lambda file: file == "libcudnn.so.8")
    assert (mask, missing) == (own | 1 << trt.TacticSource.CUDNN, ["CUBLAS", "CUBLAS_LT"])
    assert without_missing(trt, own, lambda file: False) == (own, [])


def test_the_script_has_the_last_word(tmp_path) -> None:
    (tmp_path / "tuned_for_test.py").write_text(
        "def tune(builder, network, config):\n    config['tuned'] = (builder, network)\n"
    )
    source = PythonSource(entry="tuned_for_test:tune", folder=tmp_path)
    config: dict = {}
    run_script(TensorRTOptions(config_script=source), "builder", "network", config)
    assert config == {"tuned": ("builder", "network")}
    with pytest.raises(ModelError, match="TypeError"):
        run_script(TensorRTOptions(config_script=source), "builder", "network", None)
