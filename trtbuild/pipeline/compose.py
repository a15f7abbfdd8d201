"""A recipe's steps: what each variant needs, with everything that variants share done once.

source --export--> FP32 --autocast--> FP16 --------------------> build --> engine --+--> validate --> judge
   |                 |                  +--insert--> Q/DQ --> build --> engine --+--> measure --/
   |--observe--> truth                       ^
   +--calibrate--> plan ---------------------+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import Problem, RecipeError
from trtbuild.core.tensors import Shapes
from trtbuild.pipeline.backend_choice import Choice, choose_backend
from trtbuild.pipeline.decoder_steps import DecoderSteps
from trtbuild.pipeline.halfway import Until, behind, builds_in
from trtbuild.pipeline.plan import Plan, Ref
from trtbuild.pipeline.quantization_steps import QuantizationSteps
from trtbuild.pipeline.shared_steps import Precision, SharedSteps
from trtbuild.recipe.checks import check_legality
from trtbuild.recipe.decoder_checks import check_cache_legality
from trtbuild.recipe.expand import Variant, reference, variants
from trtbuild.recipe.fields import nearest
from trtbuild.recipe.load import LoadedRecipe
from trtbuild.recipe.schema import AS_ASKED, SEARCHED, QuantizeOptions
from trtbuild.recipe.sources import build_options
from trtbuild.stages.build import BuildOptions, build
from trtbuild.stages.insert import insert
from trtbuild.stages.judge import judge
from trtbuild.stages.measure import measure
from trtbuild.stages.validate import validate


class BuiltSteps(NamedTuple):
    """Where to find what was built for one variant."""

    engine: Ref
    coverage: Ref
    placement: Ref | None = None
    """Why Q/DQ stand where they do; None where nothing was searched."""


@dataclass(frozen=True)
class VariantSteps:
    """Where to find what was made for one variant."""

    engine: Ref
    coverage: Ref
    comparison: Ref
    measurement: Ref
    verdict: Ref
    placement: Ref | None = None
    """Why Q/DQ stand where they do, where `engine.placement` searched for it."""


@dataclass(frozen=True)
class Composition:
    """The plan of a whole recipe."""

    plan: Plan
    variants: dict[str, VariantSteps]
    reference: str
    shapes: Shapes
    backend: str
    backend_because: str
    dialect: Dialect


def compose(
    loaded: LoadedRecipe, only: Sequence[str] = (), *, until: Until | None = None, elsewhere: bool = False
) -> Composition:
    """Turn a recipe into steps, for all variants or for `only` some of them. The reference's engine is always built.

    With `until` the plan holds no step behind those stages, and a backend that builds need not be here. `elsewhere`
    allows that the model itself is not: other machines' steps follow from it then.

    Raises RecipeError where a variant is unknown, or the backend cannot run it; BackendMissing where the backend asked
    for is not there.
    """
    recipe = loaded.recipe
    known = variants(recipe)
    measure_of = reference(recipe, known)
    for name in only:
        if name not in known:
            raise RecipeError(f"the recipe has no variant {name!r}", hint=nearest(name, known))
    chosen = {name: variant for name, variant in known.items() if not only or name in only or name == measure_of}
    builds = until is None or builds_in(until)
    choice = choose_backend(recipe.engine.backend, recipe.engine.target, builds=builds)
    backend, dialect = choice.backend, choice.dialect
    _check_legality(loaded, [*chosen.values()], choice)
    if backend != "tensorrt" and (graphs := [name for name, variant in chosen.items() if variant.measure.cuda_graph]):
        raise RecipeError(
            f"variant {graphs[0]}: {dialect.name} launches no CUDA graphs ({choice.because})",
            hint="set measure.cuda_graph to false, or build with TensorRT",
        )
    shared = SharedSteps(loaded, elsewhere=elsewhere)
    composer = _VariantComposer(shared, loaded, backend, dialect)
    engines = {name: composer.engine(name, variant) for name, variant in chosen.items()}
    steps = {
        name: composer.judged(name, chosen[name], built, (measure_of, engines[measure_of].engine))
        for name, built in engines.items()
        if not only or name in only
    }
    plan = shared.plan if until is None else shared.plan.without(behind(until))
    return Composition(plan, steps, measure_of, recipe.shapes, backend, choice.because, dialect)


def _check_legality(loaded: LoadedRecipe, chosen: Sequence[Variant], choice: Choice) -> None:
    """Raise RecipeError with everything that the TensorRT found here cannot run; the recipe may not have named it."""
    if choice.backend != "tensorrt":
        return
    target = choice.backend, choice.version, choice.sm
    found = [
        finding
        for variant in chosen
        if variant.quantize is not None
        for finding in check_legality(variant, variant.quantize, *target)
    ]
    if loaded.recipe.decoder is not None:
        found += [finding for variant in chosen for finding in check_cache_legality(variant, *target)]
    if found:
        raise RecipeError(
            [Problem(str(loaded.place(*finding.path)), finding.message, finding.hint) for finding in found]
        )


class _VariantComposer:
    """Adds the steps of one variant after another."""

    def __init__(self, shared: SharedSteps, loaded: LoadedRecipe, backend: str, dialect: Dialect) -> None:
        self._shared, self._loaded, self._backend, self._dialect = shared, loaded, backend, dialect
        self._quantization = QuantizationSteps(shared, dialect)
        decoder = shared.recipe.decoder
        self._decoder = None if decoder is None else DecoderSteps(shared, decoder, backend, dialect)

    def engine(self, name: str, variant: Variant) -> BuiltSteps:
        """The steps that end in a variant's engine."""
        model = self._shared.model(graph_precision(variant, self._dialect), variant.keep_fp32)
        coverage, quantize, placement = None, variant.quantize, variant.engine.placement
        if quantize is not None:
            if placement == SEARCHED:
                return self._searched(name, variant, model, quantize)
            quantize = quantize if placement == AS_ASKED else quantize.placed(placement)
            inserted = self._shared.plan.add(
                f"{name}/insert",
                insert,
                model=model,
                plan=self._quantization.plan(name, variant, quantize),
                ranges=self._quantization.ranges(quantize),
                options=quantize.insert,
                dialect=self._dialect,
            )
            model, coverage = inserted["model"], inserted["coverage"]
        if self._decoder is not None:
            model, coverage = self._decoder.with_cache(name, variant, model, coverage)
        built = self._shared.plan.add(
            f"{name}/build",
            build,
            model=model,
            coverage=coverage,
            shapes=self._shared.recipe.shapes,
            options=self._options(variant),
            compiler=self._backend,
        )
        return BuiltSteps(built["engine"], built["coverage"])

    def _searched(self, name: str, variant: Variant, model: Ref, quantize: QuantizeOptions) -> BuiltSteps:
        """The steps of `engine.placement: auto`."""
        from trtbuild.pipeline.placement_steps import PlacementSteps  # few recipes need its five stages

        if self._decoder is not None:
            raise RecipeError(
                f"variant {variant.spelled}: engine.placement auto cannot time a decoder with a cache yet",
                hint="name a placement, or multiply them: matrix: {engine.placement: [layers, layers+attention]}",
            )
        search = PlacementSteps(self._shared, self._quantization, self._backend, self._dialect)
        return BuiltSteps(*search.built(name, variant, model, quantize, self._options(variant)))

    def _options(self, variant: Variant) -> BuildOptions:
        """What the backend reads of the variant's engine options."""
        options = build_options(self._loaded, variant.engine, variant.spelled).read_by(self._backend)
        if self._dialect.typing == "builder_flags" and options.fp16 is None:
            options = options.model_copy(update={"fp16": precision_of(variant, self._dialect) == "fp16"})
        return options

    def judged(self, name: str, variant: Variant, built: BuiltSteps, reference: tuple[str, Ref]) -> VariantSteps:
        """The steps that end in a variant's verdict; `reference` is the variant to compare with and its engine."""
        engine, coverage, placement = built
        if self._decoder is not None:
            compared = self._decoder.comparison(name, engine, reference)
            measured = self._decoder.measurement(name, variant, engine, reference[1])
        else:
            compared = self._comparison(name, engine, reference[1])
            measured = self._measurement(name, variant, engine, reference[1])
        judged = self._shared.plan.add(
            f"{name}/judge",
            judge,
            comparison=compared,
            measurement=measured,
            coverage=coverage,
            placement=placement,
            options=variant.gates,
        )
        return VariantSteps(engine, coverage, compared, measured, judged["verdict"], placement)

    def _comparison(self, name: str, engine: Ref, reference: Ref) -> Ref:
        return self._shared.plan.add(
            f"{name}/validate",
            validate,
            engine=engine,
            reference=reference,
            evaluation=self._shared.evaluation,
            truth=self._shared.truth(),
            metric=self._shared.metric,
            runner=self._backend,
            comparer="polygraphy",
        )["comparison"]

    def _measurement(self, name: str, variant: Variant, engine: Ref, reference: Ref) -> Ref:
        return self._shared.plan.add(
            f"{name}/measure",
            measure,
            engine=engine,
            reference=reference,
            evaluation=self._shared.evaluation,
            shapes=self._shared.recipe.shapes,
            options=variant.measure,
            runner=self._backend,
        )["measurement"]


def precision_of(variant: Variant, dialect: Dialect) -> Precision:
    """The precision of what is not quantized. Raises RecipeError where the target has none of that name."""
    precision = variant.precision
    if precision == "bf16" and dialect.typing == "builder_flags":
        raise RecipeError(
            f"variant {variant.spelled}: {dialect.name} has no bfloat16", hint="set precision to fp16 or fp32"
        )
    if precision != "auto":
        return precision
    return "fp16" if variant.quantize is None else dialect.around_quantized


def graph_precision(variant: Variant, dialect: Dialect) -> Precision:
    """The precision of the graph that a variant starts from.

    Where flags let the builder choose, it is FP32: a cast graph would only add nodes between the builder and its
    choice. `keep_fp32` needs the cast one even there, for the types in it say which nodes are meant.
    """
    if dialect.typing == "builder_flags" and (variant.quantize is not None or not variant.keep_fp32):
        return "fp32"
    return precision_of(variant, dialect)
