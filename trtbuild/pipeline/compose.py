"""A recipe's steps: what each variant needs, with everything that variants share done once.

source --export--> FP32 --autocast--> FP16 --------------------> build --> engine --+--> validate --> judge
   |                 |                  +--insert--> Q/DQ --> build --> engine --+--> measure --/
   |--observe--> truth                       ^
   +--calibrate--> plan ---------------------+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trtbuild.core import machine
from trtbuild.core.dialects import ONNX_RUNTIME, Dialect
from trtbuild.core.errors import BackendMissing, RecipeError
from trtbuild.core.tensors import Shapes
from trtbuild.pipeline.plan import Plan, Ref
from trtbuild.pipeline.quantization_steps import QuantizationSteps
from trtbuild.pipeline.shared_steps import Precision, SharedSteps
from trtbuild.recipe.expand import Variant, reference, variants
from trtbuild.recipe.fields import nearest
from trtbuild.recipe.load import LoadedRecipe
from trtbuild.stages.build import build
from trtbuild.stages.insert import insert
from trtbuild.stages.judge import judge
from trtbuild.stages.measure import measure
from trtbuild.stages.validate import validate


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
    shared = SharedSteps(loaded)
    composer = _VariantComposer(shared, backend, ONNX_RUNTIME)
    engines = {name: composer.engine(name, variant) for name, variant in chosen.items()}
    steps = {
        name: composer.judged(name, chosen[name], engine, coverage, engines[measure_of][0])
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


class _VariantComposer:
    """Adds the steps of one variant after another."""

    def __init__(self, shared: SharedSteps, backend: str, dialect: Dialect) -> None:
        self._shared, self._backend, self._dialect = shared, backend, dialect
        self._quantization = QuantizationSteps(shared, dialect)

    def engine(self, name: str, variant: Variant) -> tuple[Ref, Ref]:
        """The steps that end in a variant's engine: the engine, and its coverage."""
        model = self._shared.model(precision_of(variant), variant.keep_fp32)
        coverage = None
        if variant.quantize is not None:
            inserted = self._shared.plan.add(
                f"{name}/insert",
                insert,
                model=model,
                plan=self._quantization.plan(name, variant, variant.quantize),
                ranges=self._quantization.ranges(variant.quantize),
                options=variant.quantize.insert,
                dialect=self._dialect,
            )
            model, coverage = inserted["model"], inserted["coverage"]
        built = self._shared.plan.add(
            f"{name}/build",
            build,
            model=model,
            coverage=coverage,
            shapes=self._shared.recipe.shapes,
            options=variant.engine.build,
            compiler=self._backend,
        )
        return built["engine"], built["coverage"]

    def judged(self, name: str, variant: Variant, engine: Ref, coverage: Ref, reference: Ref) -> VariantSteps:
        """The steps that end in a variant's verdict."""
        compared = self._shared.plan.add(
            f"{name}/validate",
            validate,
            engine=engine,
            reference=reference,
            evaluation=self._shared.evaluation,
            truth=self._shared.truth(),
            metric=self._shared.metric,
            runner=self._backend,
            comparer="polygraphy",
        )
        measured = self._shared.plan.add(
            f"{name}/measure",
            measure,
            engine=engine,
            reference=reference,
            evaluation=self._shared.evaluation,
            shapes=self._shared.recipe.shapes,
            options=variant.measure,
            runner=self._backend,
        )
        judged = self._shared.plan.add(
            f"{name}/judge",
            judge,
            comparison=compared["comparison"],
            measurement=measured["measurement"],
            coverage=coverage,
            options=variant.gates,
        )
        return VariantSteps(engine, coverage, compared["comparison"], measured["measurement"], judged["verdict"])


def precision_of(variant: Variant) -> Precision:
    """`auto`: 16 bits, but FP32 around quantized layers on a CPU, whose integer kernels take FP32."""
    if variant.precision != "auto":
        return variant.precision
    return "fp32" if variant.quantize is not None else "fp16"
