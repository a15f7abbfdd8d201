"""TensorRT on a GPU: networks in FP16 and in INT8 with several placements of Q/DQ, built, compared and timed.

    PYTHONPATH=. python benchmarks/tensorrt/run.py --minilm minilm

from the repository's root. It needs TensorRT, ONNX Runtime and trtbuild's core, and no torch. MiniLM comes from
`prepare.py`; the other networks are written here from seeds. `results.json` and `results.md` are written after every
engine; what they hold already stays, but for the models that this run names.

An engine is right where it agrees with ONNX Runtime's run of the very graph that it was built from. It pays where it is
faster than the FP16 engine. Times are GPU times by CUDA events at the `opt` shapes, engines in turns.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from max_calibration import calibrate
from models import MODELS
from report import markdown

from trtbuild.backends import BACKENDS
from trtbuild.core import gpu
from trtbuild.core.artifacts import Engine, OnnxModel, Outputs, QuantizationPlan, Samples
from trtbuild.core.dialects import dialect_of
from trtbuild.core.machine import package_version
from trtbuild.core.quantization import Plan
from trtbuild.core.results import Coverage, Measurement
from trtbuild.core.sources import MetricSource
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import Batches, write_batches
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.graph import document, insertion
from trtbuild.stages.build import build
from trtbuild.stages.judge import Bound, Gates, judge
from trtbuild.stages.measure import at_opt, latency
from trtbuild.stages.tensorrt_options import TensorRTOptions
from trtbuild.stages.validate import validate

ROUNDS, RUNS, WARM_UP = 6, 20, 10
"""Each engine is timed RUNS times in each of ROUNDS turns."""
LEAST_COSINE = {"fp32": 0.999, "fp16": 0.999, "int8": 0.99}
MINILM_SHAPES = Shapes(
    inputs={name: TensorSpec(dtype="int64", dims=["batch", "sequence"]) for name in ("input_ids", "attention_mask")},
    axes={"batch": AxisRange(min=1, opt=16, max=64), "sequence": AxisRange(min=2, opt=128, max=256)},
)


@dataclass(frozen=True)
class Variant:
    """One engine: what is allowed to be quantized."""

    name: str
    plan: str = ""
    """The plan's name; empty where nothing is quantized."""
    attention: str = "high"
    residual: str = "high"

    @property
    def kind(self) -> str:
        """`fp32`, `fp16` or `int8`."""
        return "int8" if self.plan else self.name


@dataclass
class Case:
    """One network with all that its engines are built from and compared on."""

    title: str
    model: OnnxModel
    shapes: Shapes
    evaluation: Samples
    plans: dict[str, Plan]
    ranges: dict[str, float]
    variants: list[Variant]
    truth: Outputs | None = None
    """What the FP32 PyTorch model answers."""


def main() -> int:
    """Build and measure; 1 where some engine could not be built or is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, help="the folder that prepare.py made")
    parser.add_argument("--models", nargs="*", default=["minilm", *MODELS], choices=["minilm", *MODELS])
    parser.add_argument("--variants", nargs="*", default=[], help="only these")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--scratch", type=Path, default=Path("benchmark-scratch"), help="graphs and engines, removed")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    stored = given.output / "results.json"
    results = json.loads(stored.read_text()) if stored.is_file() else {"models": {}}
    results["environment"] = environment()
    spelled = ["python benchmarks/tensorrt/run.py --minilm minilm --models", *given.models]
    results.setdefault("commands", []).append(
        " ".join([*spelled, *(["--variants"] * bool(given.variants)), *given.variants])
    )
    fine = True
    for name in given.models:
        if name == "minilm" and given.minilm is None:
            continue
        folder = given.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        case = minilm(given.minilm) if name == "minilm" else synthetic(name, folder)
        found = results["models"].setdefault(name, {})
        found |= {"title": case.title, "shapes": {key: list(shape) for key, shape in case.shapes.at("opt").items()}}
        found["engines"] = {}
        bench = Bench(case, folder)
        for variant in case.variants:
            if given.variants and variant.name not in given.variants and variant.name != "fp16":
                continue
            print(f"== {name} {variant.name}", flush=True)
            try:
                found["engines"][variant.name] = bench.engine(variant)
            except Exception as error:
                traceback.print_exc()
                found["engines"][variant.name] = {"error": f"{type(error).__name__}: {error}"}
            row = found["engines"][variant.name]
            print(json.dumps(row), flush=True)
            fine = fine and "error" not in row and not row["wrong"]
            stored.write_text(json.dumps(results, indent=1) + "\n")
            (given.output / "results.md").write_text(markdown(results))
        shutil.rmtree(folder)
    return 0 if fine else 1


def environment() -> dict[str, str]:
    """Versions and machine that decide the numbers."""
    device = gpu.current()
    return {
        "tensorrt": tensorrt_version(),
        "gpu": str(device),
        "driver": "" if device is None else f"{device.driver}, CUDA {device.cuda}",
        "onnxruntime": package_version("onnxruntime") or "",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def tensorrt_version() -> str:
    """The version of the library that is loaded."""
    return str(importlib.import_module("tensorrt").__version__)


def minilm(folder: Path) -> Case:
    """Sentence encoder with its real weights, exported and calibrated elsewhere."""
    plans = {form: Plan.read(QuantizationPlan(folder / f"plan-{form}")) for form in ("int8", "int8_sq")}
    return Case(
        "MiniLM-L6 with its real weights, batch 16 x 128 tokens",
        OnnxModel(folder / "model"),
        MINILM_SHAPES,
        Samples(folder / "evaluation"),
        plans,
        json.loads((folder / "ranges.json").read_text()),
        [
            Variant("fp16"),
            Variant("fp32"),
            Variant("int8", "int8"),
            Variant("int8_sq", "int8_sq"),
            Variant("int8_sq+attention+residual", "int8_sq", "int8", "int8"),
        ],
        Outputs(folder / "truth"),
    )


def synthetic(name: str, folder: Path) -> Case:
    """A network with random weights, calibrated here on a few random samples."""
    described = MODELS[name]
    model = OnnxModel(folder / "model")
    model.path.mkdir()
    model.main.write_bytes(described.write().SerializeToString())
    rng = np.random.default_rng(7)
    plan, ranges = calibrate(model.main, [described.inputs(rng, 4) for _ in range(2)])
    evaluation = Samples(folder / "evaluation")
    evaluation.path.mkdir()
    write_batches(evaluation.main, [described.inputs(rng, 4) for _ in range(2)])
    variants = [Variant("fp16")]
    for places in described.placements:
        attention, residual = ("int8" if place in places else "high" for place in ("attention", "residual"))
        variants.append(Variant("+".join(("int8", *places)), "int8", attention, residual))
    return Case(described.title, model, described.shapes, evaluation, {"int8": plan}, ranges, variants)


def backend(name: str) -> Any:
    """A backend of the catalogue."""
    module, _, kind = BACKENDS[name].entry.partition(":")
    return getattr(importlib.import_module(module), kind)()


class Bench:
    """The engines of one network; the FP16 engine comes first and is what the others are compared with."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._case, self._folder = case, folder
        self._tensorrt, self._comparer, self._interpreter = map(backend, ("tensorrt", "polygraphy", "onnxruntime"))
        self._dialect = dialect_of("tensorrt", tensorrt_version())
        self._reference: Engine | None = None
        self._inputs = at_opt(Batches(case.evaluation.main)[0], case.shapes)

    def engine(self, variant: Variant) -> dict[str, Any]:
        """Build, compare, time and judge one engine."""
        work = Workspace(self._folder / variant.name.replace("+", "_"))
        work.path.mkdir()
        model, coverage = self._graph(variant, work)
        options = TensorRTOptions(
            fp16=None if variant.plan else variant.name == "fp16",
            timing_cache=str(work.path / "timing.cache"),  # its own: the first build finds nothing measured
        )
        built, build_s = self._built(model, coverage, options, work)
        again = Workspace(work.path / "again")
        again.path.mkdir()
        _, rebuild_s = self._built(model, coverage, options, again)
        shutil.rmtree(again.path)
        if variant.name == "fp16":
            self._reference = built.engine
        if self._reference is None:
            raise RuntimeError("there is no FP16 engine to compare with")
        reference = self._reference
        truth = work.new(Outputs)
        evaluation = Batches(self._case.evaluation.main)
        write_batches(truth.main, self._interpreter.interpret(model, evaluation))
        comparison = validate(
            engine=built.engine,
            reference=reference,
            evaluation=self._case.evaluation,
            truth=truth,
            metric=MetricSource(),
            runner=self._tensorrt,
            comparer=self._comparer,
        )
        measurement = self._measured(built.engine, reference)
        gates = Gates(accuracy={"cosine_min": Bound(min=LEAST_COSINE[variant.kind])}, pays="faster", coverage=1.0)
        verdict = judge(comparison=comparison, measurement=measurement, coverage=built.coverage, options=gates)
        cosine = verdict.accuracy.get("cosine_min", float("nan"))
        return {
            "median_ms": measurement.engine.median_ms,
            "p95_ms": measurement.engine.p95_ms,
            "noise": measurement.engine.noise,
            "fp16_median_ms": measurement.reference.median_ms,
            "speedup_vs_fp16": verdict.speedup,
            "plan_mb": round(built.engine.size_bytes / 1e6, 1),
            "build_s": build_s,
            "rebuild_s": rebuild_s,
            "cosine_to_onnx": round(cosine, 6),
            **self._task_accuracy(built.engine),
            "cosine_to_fp16_engine": _least_cosine(comparison.against_reference),
            "wrong": bool(comparison.non_finite) or not cosine >= LEAST_COSINE[variant.kind],
            "coverage": [built.coverage.asked, built.coverage.inserted, built.coverage.ran],
            "untold": built.coverage.untold,
            "not_quantized": {layer.module: layer.reason for layer in built.coverage.layers if layer.reason},
            "smoothing_left": built.coverage.smoothing_left,
            "verdict": verdict.outcome,
            "reasons": verdict.reasons,
        }

    def _task_accuracy(self, engine: Engine) -> dict[str, float]:
        """For MiniLM, how well sentence embeddings agree with the FP32 model's."""
        if self._case.truth is None:
            return {}
        sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "minilm"))
        from minilm import embedding_agreement

        samples = list(Batches(self._case.evaluation.main))
        session = self._tensorrt.open(engine, threads=0)
        try:
            outputs = [session.infer(batch) for batch in samples]
        finally:
            session.close()
        found = embedding_agreement(outputs, list(Batches(self._case.truth.main)), samples)
        return {name: round(value, 6) for name, value in found.items()}

    def _graph(self, variant: Variant, work: Workspace) -> tuple[OnnxModel, Coverage]:
        if not variant.plan:
            return self._case.model, Coverage()
        graph = document.load(self._case.model.main)
        coverage = insertion.insert(
            graph,
            self._case.plans[variant.plan],
            attention=variant.attention,  # type: ignore[arg-type]
            residual=variant.residual,  # type: ignore[arg-type]
            ranges=self._case.ranges,
            dialect=self._dialect,
        )
        model = work.new(OnnxModel)
        document.save(graph, model)
        return model, coverage

    def _built(self, model: OnnxModel, coverage: Coverage, options: Any, work: Workspace) -> tuple[Any, float]:
        began = time.perf_counter()
        built = build(
            model=model,
            coverage=coverage,
            shapes=self._case.shapes,
            options=options,
            compiler=self._tensorrt,
            work=work,
        )
        return built, round(time.perf_counter() - began, 1)

    def _measured(self, engine: Engine, reference: Engine) -> Measurement:
        """Both engines in turns, GPU time."""
        openers = [partial(self._tensorrt.open, each, threads=0) for each in dict.fromkeys((engine, reference))]
        sessions = [opener() for opener in openers]
        times: list[list[float]] = [[] for _ in sessions]
        try:
            for _ in range(ROUNDS):
                for session, spent in zip(sessions, times, strict=True):
                    spent.extend(session.time(self._inputs, RUNS, WARM_UP))
        finally:
            for session in sessions:
                session.close()
        return Measurement(
            engine=latency(times[0]),
            reference=latency(times[-1]),
            shapes={name: list(tensor.shape) for name, tensor in self._inputs.items()},
            engine_bytes=engine.size_bytes,
            reference_bytes=reference.size_bytes,
            device=self._tensorrt.device,
            threads=1,
        )


def _least_cosine(agreement: dict[str, Any]) -> float | None:
    return round(min(output.cosine_min for output in agreement.values()), 6) if agreement else None


if __name__ == "__main__":
    sys.exit(main())
