"""Options to the builder's configuration. What this TensorRT does not know is an error that names the option."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trtbuild.backends.tensorrt.library import assign, member
from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import RecipeError
from trtbuild.core.python_entry import call_entry

if TYPE_CHECKING:
    import tensorrt

FLAGS = {
    "error_on_timing_cache_miss": "ERROR_ON_TIMING_CACHE_MISS",
    "distributive_independence": "DISTRIBUTIVE_INDEPENDENCE",
    "version_compatible": "VERSION_COMPATIBLE",
    "exclude_lean_runtime": "EXCLUDE_LEAN_RUNTIME",
    "strip_plan": "STRIP_PLAN",
    "weight_streaming": "WEIGHT_STREAMING",
    "sparsity": "SPARSE_WEIGHTS",
}
"""Options that are on or off, and the BuilderFlag each turns on."""
REFIT_FLAGS = {"none": "", "all": "REFIT", "identical": "REFIT_IDENTICAL"}
NUMBERS = {
    "optimization_level": "builder_optimization_level",
    "auxiliary_streams": "max_aux_streams",
    "max_tactics": "max_num_tactics",
    "timing_iterations": "avg_timing_iterations",
}
"""Options that are numbers, and the property of IBuilderConfig that each sets."""
POOLS = {
    "workspace_mb": ("WORKSPACE", 1 << 20),
    "tactic_memory_mb": ("TACTIC_DRAM", 1 << 20),
    "tactic_shared_memory_kb": ("TACTIC_SHARED_MEMORY", 1 << 10),
}
"""Options that limit memory: the MemoryPoolType, and bytes per unit."""
TILING = {"none": "NONE", "fast": "FAST", "moderate": "MODERATE", "full": "FULL"}
COMPATIBILITY = {
    "none": "NONE",
    "ampere_plus": "AMPERE_PLUS",
    "same_compute_capability": "SAME_COMPUTE_CAPABILITY",
}
VERBOSITY = {"detailed": "DETAILED", "names": "LAYER_NAMES_ONLY", "none": "NONE"}
LIBRARIES = {
    "CUBLAS": ("libcublas.so.13", "libcublas.so.12", "libcublas.so.11"),
    "CUBLAS_LT": ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"),
    "CUDNN": ("libcudnn.so.9", "libcudnn.so.8"),
}
"""The libraries that some tactic sources load when the build starts; without them the build fails."""


def configure(
    trt: Any, config: tensorrt.IBuilderConfig, options: Any, dialect: Dialect, holds: frozenset[str]
) -> list[str]:
    """Set a builder's configuration from the options; returns the builder flags for precision, by name.

    `holds` says what the network holds, of `fp16` and `quantize`. Raises RecipeError for what this TensorRT lacks.
    """
    version = trt.__version__
    for option, name in FLAGS.items():
        if getattr(options, option):
            config.set_flag(member(trt.BuilderFlag, name, f"engine.{option}", version))
    if name := REFIT_FLAGS[options.refit]:
        config.set_flag(member(trt.BuilderFlag, name, f"engine.refit: {options.refit}", version))
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    for option, attribute in NUMBERS.items():
        if (value := getattr(options, option)) is not None:
            assign(config, attribute, value, f"engine.{option}", version)
    for option, (name, unit) in POOLS.items():
        if (value := getattr(options, option)) is not None:
            pool = member(trt.MemoryPoolType, name, f"engine.{option}", version)
            config.set_memory_pool_limit(pool, value * unit)
    if options.tiling is not None:
        levels = _enumeration(trt, "TilingOptimizationLevel", "engine.tiling")
        level = member(levels, TILING[options.tiling], "engine.tiling", version)
        assign(config, "tiling_optimization_level", level, "engine.tiling", version)
    if options.hardware_compatibility != "none":
        setting = f"engine.hardware_compatibility: {options.hardware_compatibility}"
        level = member(trt.HardwareCompatibilityLevel, COMPATIBILITY[options.hardware_compatibility], setting, version)
        config.hardware_compatibility_level = level
    config.profiling_verbosity = member(
        trt.ProfilingVerbosity, VERBOSITY[options.profiling_verbosity], "engine.profiling_verbosity", version
    )
    for feature in options.preview_features:
        config.set_preview_feature(member(trt.PreviewFeature, feature, "engine.preview_features", version), True)
    if options.serialize_plugins:
        config.plugins_to_serialize = [str(plugin) for plugin in options.plugins]
    _set_tactic_sources(trt, config, options)
    return _set_precision(trt, config, options, dialect, holds)


def run_script(
    options: Any,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
) -> None:
    """Let the recipe's own function have the last word. Raises ModelError where it raises."""
    if options.config_script is not None:
        call_entry(options.config_script, builder, network, config)


def precision_flags(dialect: Dialect, fp16: bool | None, holds: frozenset[str]) -> list[str]:
    """The builder flags without which a weakly typed network of this content would not build, or not run in FP16.

    Raises RecipeError where FP16 is asked for by a flag and the target takes precision from the graph alone.
    """
    if dialect.typing == "graph":
        if fp16 is not None:
            raise RecipeError(
                f"engine.fp16 is for TensorRT 8.6; {dialect.name} takes precision from the graph",
                hint="leave engine.fp16 out and set precision: fp16 for the variant",
            )
        return []
    flags = []
    if fp16 if fp16 is not None else bool(holds & {"fp16", "quantize"}):
        flags.append("FP16")
    if "quantize" in holds:
        flags.append("INT8")
    return flags


def tactic_mask(trt: Any, names: list[str]) -> int:
    """A set of tactic sources as TensorRT takes it. Raises RecipeError where this version lacks one."""
    mask = 0
    for name in names:
        mask |= 1 << int(member(trt.TacticSource, name, "engine.tactic_sources", trt.__version__))
    return mask


def without_missing(trt: Any, mask: int, loads: Callable[[str], bool]) -> tuple[int, list[str]]:
    """The mask less the sources whose library does not load here, and their names."""
    missing = []
    for name, files in LIBRARIES.items():
        source = getattr(trt.TacticSource, name, None)
        if source is not None and mask >> int(source) & 1 and not any(loads(file) for file in files):
            mask &= ~(1 << int(source))
            missing.append(name)
    return mask, missing


def _set_tactic_sources(trt: Any, config: tensorrt.IBuilderConfig, options: Any) -> None:
    if options.tactic_sources is not None:
        mask = tactic_mask(trt, options.tactic_sources)
    else:
        mask, missing = without_missing(trt, config.get_tactic_sources(), _loads)
        if not missing:
            return
        print(f"tactic sources left out, their libraries do not load here: {', '.join(missing)}", flush=True)
    if not config.set_tactic_sources(mask):
        raise RecipeError(
            f"TensorRT {trt.__version__} refuses the tactic sources {options.tactic_sources}",
            hint="leave engine.tactic_sources out",
        )


def _set_precision(
    trt: Any, config: tensorrt.IBuilderConfig, options: Any, dialect: Dialect, holds: frozenset[str]
) -> list[str]:
    flags = precision_flags(dialect, options.fp16, holds)
    for name in flags:
        config.set_flag(member(trt.BuilderFlag, name, "engine.fp16", trt.__version__))
    return flags


def _enumeration(trt: Any, name: str, setting: str) -> Any:
    found = getattr(trt, name, None)
    if found is None:
        raise RecipeError(f"{setting}: TensorRT {trt.__version__} has no {name}", hint=f"leave {setting} out")
    return found


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
