"""The steps that look into one variant that failed: which nodes 16 bits break, which modules quantization costs."""

from __future__ import annotations

from typing import NamedTuple

from trtbuild.core.dialects import Dialect
from trtbuild.core.repairs import Bisection, Repair
from trtbuild.core.results import Gate
from trtbuild.pipeline.backend_choice import choose_backend
from trtbuild.pipeline.compose import precision_of
from trtbuild.pipeline.plan import Plan, Ref
from trtbuild.pipeline.quantization_steps import QuantizationSteps
from trtbuild.pipeline.shared_steps import SharedSteps
from trtbuild.recipe.expand import Variant
from trtbuild.recipe.load import LoadedRecipe
from trtbuild.stages.bisect import BisectOptions, bisect
from trtbuild.stages.repair import RepairOptions, repair
from trtbuild.stages.sensitivity import SensitivityOptions


class Search(NamedTuple):
    """A plan of steps, and where its end will be found."""

    plan: Plan
    result: Ref
    kind: type[Bisection] | type[Repair]


def bisection(loaded: LoadedRecipe, variant: Variant, failed: list[Gate]) -> Search:
    """The search for nodes that FP16 is too small for, on the very samples that the engine failed on."""
    shared = SharedSteps(loaded)
    step = shared.plan.add(
        f"{variant.name}/bisect",
        bisect,
        model=shared.exported(),
        samples=shared.evaluation,
        options=BisectOptions(keep_fp32=variant.keep_fp32, everywhere="finite" not in failed),
        caster="autocast",
        interpreter="onnxruntime",
    )
    return Search(shared.plan, step["bisection"], Bisection)


def accuracy_repair(loaded: LoadedRecipe, variant: Variant, margin: float) -> Search:
    """The search for modules that cost too much accuracy, on samples that no gate is judged on."""
    assert variant.quantize is not None
    shared = SharedSteps(loaded)
    dialect = dialect_for(loaded)
    quantization = QuantizationSteps(shared, dialect)
    plan = quantization.plan(variant.name, variant, variant.quantize)
    step = shared.plan.add(
        f"{variant.name}/repair",
        repair,
        model=shared.exported(),
        plan=plan,
        sensitivity=quantization.sensitivity(f"{variant.name}/repair", [plan], SensitivityOptions()),
        selection=shared.selection,
        metric=shared.metric,
        ranges=quantization.ranges(variant.quantize),
        options=RepairOptions(accuracy=variant.gates.accuracy, margin=margin, insert=variant.quantize.insert),
        dialect=dialect,
        interpreter="onnxruntime",
    )
    return Search(shared.plan, step["repair"], Repair)


def in_fp16(variant: Variant, dialect: Dialect) -> bool:
    """Whether what is not quantized runs in FP16; BF16 has the range of FP32."""
    return precision_of(variant, dialect) == "fp16"


def dialect_for(loaded: LoadedRecipe) -> Dialect:
    """How graphs are written for the backend that builds the recipe."""
    return choose_backend(loaded.recipe.engine.backend, loaded.recipe.engine.target).dialect
