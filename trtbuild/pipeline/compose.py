"""A recipe's steps: what each variant needs, with everything that variants share done once.

source --export--> FP32 --autocast--> FP16 --------------------> build --> engine --+--> validate --> judge
   |                 |                  +--insert--> Q/DQ --> build --> engine --+--> measure --/
   |--observe--> truth                       ^
   +--calibrate--> plan ---------------------+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trtbuild.core import machine
from trtbuild.core.errors import BackendMissing, RecipeError
from trtbuild.core.sources import HuggingFaceSource, OnnxSource
from trtbuild.core.tensors import Shapes
from trtbuild.pipeline.plan import Plan, Ref, Step
from trtbuild.recipe.expand import Variant, reference, variants
from trtbuild.recipe.fields import nearest
from trtbuild.recipe.load import LoadedRecipe
from trtbuild.recipe.sources import sources
from trtbuild.stages.autocast import AutocastOptions, autocast
from trtbuild.stages.build import build
from trtbuild.stages.calibrate import calibrate
from trtbuild.stages.export import adopt, export
from trtbuild.stages.insert import insert
from trtbuild.stages.judge import judge
from trtbuild.stages.measure import measure
from trtbuild.stages.observe import observe, observe_onnx
from trtbuild.stages.sample import sample
from trtbuild.stages.validate import validate

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class VariantSteps:
    """Where to find what was made for one variant."""

    engine: Ref
    coverage: Ref
    comparison: Ref
    measurement: Ref
    verdict: Ref


@dataclass(frozen=True)
class Composition:
    """The plan of a whole recipe."""

    plan: Plan
    variants: dict[str, VariantSteps]
    reference: str
    shapes: Shapes
    backend: str
    backend_because: str


def compose(loaded: LoadedRecipe, only: Sequence[str] = ()) -> Composition:
    """Turn a recipe into steps, for all variants or for `only` some of them. The reference's engine is always built.

    Raises RecipeError where a variant is unknown, BackendMissing where the backend asked for is not there.
    """
    recipe = loaded.recipe
    known = variants(recipe)
    measure_of = reference(recipe, known)
    for name in only:
        if name not in known:
            raise RecipeError(f"the recipe has no variant {name!r}", hint=nearest(name, known))
    chosen = {name: variant for name, variant in known.items() if not only or name in only or name == measure_of}
    backend, because = choose_backend(recipe.engine.backend, recipe.engine.target)
    shared = _Shared(loaded, backend)
    engines = {name: shared.engine(name, variant) for name, variant in chosen.items()}
    steps = {
        name: shared.judged(name, chosen[name], engine, coverage, engines[measure_of][0])
        for name, (engine, coverage) in engines.items()
        if not only or name in only
    }
    return Composition(shared.plan, steps, measure_of, recipe.shapes, backend, because)


def choose_backend(asked: str, target: str | None) -> tuple[str, str]:
    """The backend that builds, and why. Raises BackendMissing where the one asked for is not there."""
    if asked == "tensorrt":
        raise BackendMissing(
            "this version of trtbuild builds with onnxruntime only; its TensorRT backend is not written yet",
            hint="set engine.backend to onnxruntime or auto",
        )
    version = machine.package_version("onnxruntime")
    if version is None:
        raise BackendMissing("onnxruntime is not installed", hint="install it: pip install onnxruntime")
    if target and not f"{version}.".startswith(f"{target}."):
        raise BackendMissing(
            f"the recipe targets onnxruntime {target}, this environment has {version}",
            hint=f"install it: pip install 'onnxruntime~={target}', or change engine.target",
        )
    return (
        "onnxruntime",
        "the recipe asks for it" if asked == "onnxruntime" else "auto: the only backend this version builds with",
    )


class _Shared:
    """Steps that variants share, made when the first of them asks."""

    def __init__(self, loaded: LoadedRecipe, backend: str) -> None:
        self.plan = Plan(loaded.recipe.recipe)
        self._recipe, self._backend = loaded.recipe, backend
        found = sources(loaded)
        self._source, self._metric = found.model, found.metric
        self._loader = "huggingface" if isinstance(self._source, HuggingFaceSource) else "factory"
        self._samples = self.plan.add("sample", sample, source=found.samples, shapes=loaded.recipe.shapes)

    def engine(self, name: str, variant: Variant) -> tuple[Ref, Ref]:
        """The steps that end in a variant's engine: the engine, and its coverage."""
        model = self._model(self._precision(variant))
        coverage = None
        if variant.quantize is not None:
            inserted = self.plan.add(
                f"{name}/insert",
                insert,
                model=model,
                plan=self._calibrated(name, variant)["quantizationplan"],
                options=variant.quantize.insert,
            )
            model, coverage = inserted["model"], inserted["coverage"]
        built = self.plan.add(
            f"{name}/build",
            build,
            model=model,
            coverage=coverage,
            shapes=self._recipe.shapes,
            options=variant.engine.build,
            compiler=self._backend,
        )
        return built["engine"], built["coverage"]

    def judged(self, name: str, variant: Variant, engine: Ref, coverage: Ref, reference: Ref) -> VariantSteps:
        """The steps that end in a variant's verdict."""
        evaluation = self._samples["evaluation"]
        compared = self.plan.add(
            f"{name}/validate",
            validate,
            engine=engine,
            reference=reference,
            evaluation=evaluation,
            truth=self._truth(),
            metric=self._metric,
            runner=self._backend,
            comparer="polygraphy",
        )
        measured = self.plan.add(
            f"{name}/measure",
            measure,
            engine=engine,
            reference=reference,
            evaluation=evaluation,
            shapes=self._recipe.shapes,
            options=variant.measure,
            runner=self._backend,
        )
        judged = self.plan.add(
            f"{name}/judge",
            judge,
            comparison=compared["comparison"],
            measurement=measured["measurement"],
            coverage=coverage,
            options=variant.gates,
        )
        return VariantSteps(engine, coverage, compared["comparison"], measured["measurement"], judged["verdict"])

    def _precision(self, variant: Variant) -> Precision:
        """`auto`: 16 bits, but FP32 around quantized layers on a CPU, whose integer kernels take FP32."""
        if variant.precision != "auto":
            return variant.precision
        return "fp32" if variant.quantize is not None else "fp16"

    def _model(self, precision: Precision) -> Ref:
        exported = self._exported()
        if precision == "fp32":
            return exported
        return self.plan.add(
            f"autocast-{precision}",
            autocast,
            model=exported,
            options=AutocastOptions(precision=precision),
            caster="autocast",
        )["onnxmodel"]

    def _exported(self) -> Ref:
        if isinstance(self._source, OnnxSource):
            return self.plan.add("adopt", adopt, source=self._source, shapes=self._recipe.shapes)["onnxmodel"]
        return self.plan.add(
            "export",
            export,
            source=self._source,
            shapes=self._recipe.shapes,
            options=self._recipe.export,
            loader=self._loader,
            exporter="pytorch",
        )["onnxmodel"]

    def _truth(self) -> Ref:
        evaluation = self._samples["evaluation"]
        if isinstance(self._source, OnnxSource):
            step = self.plan.add(
                "observe", observe_onnx, model=self._exported(), evaluation=evaluation, interpreter="onnxruntime"
            )
        else:
            step = self.plan.add(
                "observe",
                observe,
                source=self._source,
                evaluation=evaluation,
                loader=self._loader,
                exporter="pytorch",
            )
        return step["outputs"]

    def _calibrated(self, name: str, variant: Variant) -> Step:
        assert variant.quantize is not None
        options = variant.quantize.calibrate
        return self.plan.add(
            f"calibrate-{options.format}",
            calibrate,
            source=self._source,
            calibration=self._samples["calibration"],
            options=options,
            loader=self._loader,
            calibrator="modelopt",
        )
