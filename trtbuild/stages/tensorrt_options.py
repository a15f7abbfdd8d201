"""What TensorRT's builder can be told, each by our name, trtexec's and Polygraphy's.

None leaves a setting as TensorRT has it. A setting that the installed version does not know is an error, never ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from trtbuild.core.sources import PythonSource
from trtbuild.core.tensors import AxisRange
from trtbuild.core.values import Options

TacticSource = Literal["CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]


class TensorRTOptions(Options):
    """How TensorRT builds an engine. ONNX Runtime reads none of these."""

    optimization_level: int | None = Field(default=None, ge=0, le=5)
    """How hard the builder searches: 0 takes the first kernel that works, 5 compares everything; TensorRT's own is 3.
    trtexec `--builderOptimizationLevel`, Polygraphy `builder_optimization_level`."""
    workspace_mb: int | None = Field(default=None, ge=1)
    """Most GPU memory, in MiB, that one kernel may use for scratch, in the build and when it runs; None allows all.
    trtexec `--memPoolSize=workspace:N`, Polygraphy `memory_pool_limits={WORKSPACE}`."""
    tactic_memory_mb: int | None = Field(default=None, ge=1)
    """Most GPU memory, in MiB, that trying kernels may take during the build.
    trtexec has none, Polygraphy `memory_pool_limits={TACTIC_DRAM}`."""
    tactic_shared_memory_kb: int | None = Field(default=None, ge=1)
    """Most shared memory, in KiB, that a kernel may use (not in 8.6).
    trtexec `--memPoolSize=tacticSharedMem:N`, Polygraphy `memory_pool_limits={TACTIC_SHARED_MEMORY}`."""
    tactic_sources: list[TacticSource] | None = None
    """Libraries that kernels may come from. None takes TensorRT's own, less cuBLAS and cuDNN where they do not load.
    trtexec `--tacticSources`, Polygraphy `tactic_sources`."""
    auxiliary_streams: int | None = Field(default=None, ge=0)
    """Most streams beside the main one that kernels may run on; 0 runs one after the other.
    trtexec `--maxAuxStreams`, Polygraphy `max_aux_streams`."""
    max_tactics: int | None = Field(default=None, ge=1)
    """Most kernels to try for a layer (not in 8.6). trtexec `--maxTactics`, Polygraphy has none."""
    timing_iterations: int | None = Field(default=None, ge=1)
    """Runs that each kernel's time is averaged over. trtexec `--avgTiming`, Polygraphy has none."""
    tiling: Literal["none", "fast", "moderate", "full"] | None = None
    """How hard the builder searches for tilings across layers that keep data in the L2 cache (not in 8.6).
    trtexec `--tilingOptimizationLevel`, Polygraphy `tiling_optimization_level`."""

    timing_cache: str = "shared"
    """Where measured kernel times are kept: `shared` is one file for this TensorRT and GPU in `$TRTBUILD_TIMING_CACHE`
    (by default the folder `timing` of the store), `off` keeps none, anything else is the path of a file.
    trtexec `--timingCacheFile`, Polygraphy `load_timing_cache` and `save_timing_cache`."""
    error_on_timing_cache_miss: bool = False
    """Fails the build where a kernel's time is not in the timing cache, which is then only read: the same machine and
    cache choose the same kernels (not in 8.6).
    trtexec `--errorOnTimingCacheMiss`, Polygraphy `error_on_timing_cache_miss`."""
    distributive_independence: bool = False
    """Equal rows of a batch give equal results wherever in the batch they stand (not in 8.6 to 10.9).
    trtexec `--distributiveIndependence`, Polygraphy has none."""

    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """Which other GPUs may run the engine, at some cost in speed.
    trtexec `--hardwareCompatibilityLevel`, Polygraphy `hardware_compatibility_level`."""
    version_compatible: bool = False
    """Later versions of TensorRT may run the engine. trtexec `--versionCompatible`, Polygraphy `version_compatible`."""
    exclude_lean_runtime: bool = False
    """Leaves the lean runtime out of a version-compatible engine: smaller, but needs it from elsewhere.
    trtexec `--excludeLeanRuntime`, Polygraphy `exclude_lean_runtime`."""

    refit: Literal["none", "all", "identical"] = "none"
    """Whether weights can be put in later: `all` any weights (may cost speed), `identical` only the ones it was built
    with (not in 8.6). trtexec `--refit`, Polygraphy `refittable`."""
    strip_plan: bool = False
    """Leaves the weights out of the engine: they must be put in before it runs (not in 8.6).
    trtexec `--stripWeights`, Polygraphy `strip_plan`."""
    weight_streaming: bool = False
    """Keeps weights in host memory and copies them to the GPU while the engine runs (not in 8.6).
    trtexec `--allowWeightStreaming`, Polygraphy `weight_streaming`."""
    sparsity: bool = False
    """Lets the builder use kernels for weights in which 2 of each 4 numbers are zero.
    trtexec `--sparsity=enable`, Polygraphy `sparse_weights`."""
    tf32: bool = True
    """Lets FP32 products round their inputs to TF32 on tensor cores, as TensorRT does by itself.
    trtexec `--noTF32` turns it off, Polygraphy `tf32`."""
    fp16: bool | None = None
    """TensorRT 8.6 only, whose graphs do not fix the precision: FP32 layers may run in FP16. None allows it unless the
    variant's `precision` is fp32. trtexec `--fp16`, Polygraphy `fp16`."""
    preview_features: list[str] = []
    """Features of TensorRT's `PreviewFeature` to turn on, by name.
    trtexec `--preview`, Polygraphy `preview_features`."""

    profiling_verbosity: Literal["detailed", "names", "none"] = "detailed"
    """What the engine tells of its layers; without `detailed` nobody can say which precision they run in.
    trtexec `--profilingVerbosity`, Polygraphy `profiling_verbosity`."""
    profiles: dict[str, dict[str, AxisRange]] = {}
    """Further optimization profiles by name: for each, the axes whose range is narrower than in `shapes`. Without any
    there is one profile, of `shapes` itself; with some, each call takes the first that holds its shapes.
    trtexec `--profile=N --minShapes --optShapes --maxShapes`, Polygraphy `profiles`."""
    plugins: list[Path] = []
    """Plugin libraries (.so) to load before the graph is parsed. Their content is part of the key.
    trtexec `--staticPlugins`, Polygraphy `LoadPlugins`."""
    serialize_plugins: bool = False
    """Puts those libraries into the engine, which must be version compatible.
    trtexec `--setPluginsToSerialize`, Polygraphy has none."""
    config_script: PythonSource | None = None
    """A function `(builder, network, config)` called last, for what has no name here. Its file is part of the key.
    trtexec has none, Polygraphy `--trt-config-postprocess-script`."""

    @property
    def python(self) -> PythonSource | None:
        """The code that decides the engine beside these values."""
        return self.config_script

    @property
    def files(self) -> list[Path]:
        """The files that decide the engine beside these values."""
        return [*(self.config_script.files if self.config_script else ()), *self.plugins]
