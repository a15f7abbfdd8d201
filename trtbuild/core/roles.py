"""What a backend can be. A stage asks for roles, a recipe casts backends in them; nobody names a library.

Roles speak in artifacts and plain values. A backend is a class whose bases say what it can play.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from trtbuild.core.artifacts import Engine, OnnxModel, QuantizationPlan
from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import LayerRanges
from trtbuild.core.results import Comparison, LayerTime
from trtbuild.core.sensitivity import Sensitivity
from trtbuild.core.sources import ModelSource
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options

if TYPE_CHECKING:
    from trtbuild.core.quantization import Plan
    from trtbuild.core.tensor_file import Tensors


class Role(ABC):
    """A part that a stage needs someone to play."""


class Loader(Role):
    """Turns a model source into the framework's own module."""

    @abstractmethod
    def load(self, source: ModelSource) -> Any:
        """The module, in inference mode, on the CPU, in FP32. Raises ModelError."""


class Exporter(Role):
    """Writes a framework's module as ONNX."""

    @abstractmethod
    def export(self, module: Any, shapes: Shapes, opset: int, target: Path) -> None:
        """Write ONNX at `target`, nodes carrying their module path as metadata. Raises ModelError."""

    @abstractmethod
    def observe(self, module: Any, samples: Iterable[Tensors]) -> Iterable[Tensors]:
        """The module's outputs for each sample, in FP32."""


class Caster(Role):
    """Lowers an FP32 graph to 16 bits where that is safe."""

    @abstractmethod
    def cast(
        self,
        model: OnnxModel,
        precision: Literal["fp16", "bf16"],
        keep_io_types: bool,
        target: Path,
        keep_fp32: Sequence[str] = (),
    ) -> None:
        """Write the cast model at `target`; the nodes named in `keep_fp32` stay in FP32."""


class Calibrator(Role):
    """Decides the numbers of a quantization by running the module on real samples."""

    @abstractmethod
    def calibrate(self, module: Any, options: Any, samples: Sequence[Tensors], plan: QuantizationPlan) -> None:
        """Write `plan`. `options` are the calibrate stage's. Raises DataError where there are no samples."""


class CacheObserver(Role):
    """Finds how far a decoder's keys and values reach, by running it on real samples."""

    @abstractmethod
    def observe_cache(self, module: Any, samples: Iterable[Tensors], percentile: float) -> dict[int, LayerRanges]:
        """The ranges by layer; `percentile` percent of a head's elements lie within. Raises DataError where there are
        no samples."""


class OnnxCalibrator(Role):
    """Decides the numbers of a quantization by running an ONNX graph on real samples."""

    @abstractmethod
    def calibrate(
        self, model: OnnxModel, options: Any, samples: Sequence[Tensors], folder: Path, plan: QuantizationPlan
    ) -> None:
        """Write `plan`. `options` are the calibrate stage's; `folder` is empty, and scratch. Raises DataError where
        there are no samples, ModelError where the graph or the format does not allow it."""


class Prober(Role):
    """Predicts what quantizing each module alone does to the model's output."""

    @abstractmethod
    def probe(self, module: Any, plans: Mapping[str, Plan], samples: Iterable[Tensors], options: Any) -> Sensitivity:
        """The sensitivity of the modules of `plans`, by candidate name. `options` are the sensitivity stage's."""


class Trainer(Role):
    """Fine-tunes quantized weights so that the quantized module answers as the FP32 one does."""

    @abstractmethod
    def finetune(self, module: Any, plan: Plan, options: Any, samples: Sequence[Tensors]) -> Plan:
        """The plan with the codes of the trained weights. `options` are the finetune stage's."""


class Interpreter(Role):
    """Runs an ONNX graph as it is written, unfused: the truth for a model that has no other source."""

    @abstractmethod
    def interpret(self, model: OnnxModel, samples: Iterable[Tensors]) -> Iterable[Tensors]:
        """The graph's outputs for each sample."""


class Session(ABC):
    """An engine, loaded and ready."""

    @abstractmethod
    def infer(self, inputs: Tensors) -> Tensors:
        """Outputs by name for one set of inputs."""

    def time(self, inputs: Tensors, runs: int, warm_up: int, *, cuda_graph: bool = False) -> list[float]:
        """Milliseconds of each of `runs` calls after `warm_up` untimed ones: by the clock on the wall, copies included,
        where a backend has nothing more exact.

        `cuda_graph` launches each call as one recorded CUDA graph: raises ModelError where the backend has none.
        """
        if cuda_graph:
            raise ModelError(f"{type(self).__name__} launches no CUDA graphs", hint="set measure.cuda_graph to false")
        for _ in range(warm_up):
            self.infer(inputs)
        times = []
        for _ in range(runs):
            began = perf_counter()
            self.infer(inputs)
            times.append(1e3 * (perf_counter() - began))
        return times

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""


class Precisions(NamedTuple):
    """What an engine multiplies in, in the words of `trtbuild.stages.build.runs_in`."""

    layers: dict[str, str]
    """Of each product, convolution or gathered table with a constant weight, by node name."""
    attention: dict[str, str]
    """Of the two products around a softmax, by the softmax's node name."""


class Compiler(Role):
    """Builds an engine for this machine from an ONNX model."""

    @abstractmethod
    def compile(self, model: OnnxModel, shapes: Shapes, options: Options, engine: Engine) -> None:
        """Write `engine`, optimized for this machine at the `opt` shapes."""

    @abstractmethod
    def precisions(self, engine: Engine) -> Precisions:
        """What the built engine multiplies in."""


class Runner(Role):
    """Loads and runs engines."""

    @abstractmethod
    def open(self, engine: Engine, threads: int) -> Session:
        """Load an engine. Raises ModelError where it does not fit this machine."""

    def layer_times(self, engine: Engine, inputs: Tensors, runs: int, threads: int) -> list[LayerTime]:
        """Median time of each layer over `runs` calls, layers of the same modules together, in the order in which they
        run first. Empty where the backend, or this engine, does not tell.
        """
        return []

    @property
    @abstractmethod
    def device(self) -> str:
        """What it runs on, in words."""


class Compared(NamedTuple):
    """A comparison, and what was compared."""

    comparison: Comparison
    outputs: Sequence[Tensors]
    """The engine's, sample by sample."""
    reference: Sequence[Tensors]
    """The reference's."""


class Comparer(Role):
    """Compares runs of the same samples."""

    @abstractmethod
    def compare(
        self,
        engine: Callable[[], Session],
        reference: Callable[[], Session],
        samples: Sequence[Tensors],
        truth: Sequence[Tensors] | None,
    ) -> Compared:
        """Compare on every sample, also with `truth` where there is one. Opens one session at a time: two may not
        fit."""


@dataclass(frozen=True)
class Provider:
    """How a catalogue lists a backend: light facts here, weight behind `entry`."""

    entry: str
    """`module:Class`, imported only when a step runs."""
    plays: tuple[type[Role], ...]
    """The roles it can play."""
    packages: tuple[str, ...]
    """Distributions whose versions decide its results; each must be installed."""
    machine: tuple[str, ...] = ()
    """Machine facts (`trtbuild.core.machine.FACTS`) that decide its results."""
    extra: str = ""
    """The extra of trtbuild that installs it."""
