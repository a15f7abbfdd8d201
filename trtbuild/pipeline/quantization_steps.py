"""The steps that end in a variant's quantization plan: calibrations, a search, a mixture, training."""

from __future__ import annotations

from trtbuild.core.dialects import Dialect
from trtbuild.core.formats import FORMATS
from trtbuild.pipeline.plan import Ref
from trtbuild.pipeline.shared_steps import SharedSteps
from trtbuild.recipe.expand import Variant
from trtbuild.recipe.schema import AUTO, QuantizeOptions
from trtbuild.stages.calibrate import CalibrateOptions, calibrate
from trtbuild.stages.calibrate_onnx import calibrate_onnx
from trtbuild.stages.finetune import finetune
from trtbuild.stages.insert import InsertOptions
from trtbuild.stages.mix import MixOptions, mix
from trtbuild.stages.observe import observe_ranges
from trtbuild.stages.search import SearchOptions, search
from trtbuild.stages.sensitivity import SensitivityOptions, sensitivity, sensitivity_onnx

ONE_BY_ONE_ROWS = 16
"""Rows at most where each module is quantized and run alone: the runs are as many as modules times formats."""


class QuantizationSteps:
    """Adds a variant's steps to the plan; calibrations are shared by all variants that ask for the same."""

    def __init__(self, shared: SharedSteps, dialect: Dialect) -> None:
        self._shared, self._dialect = shared, dialect

    def plan(self, name: str, variant: Variant, quantize: QuantizeOptions) -> Ref:
        """The plan of a variant: one calibration's, or one made of several."""
        plans = [self._calibrated(quantize.calibrate(form)) for form in quantize.formats]
        plan = plans[0]
        if quantize.format == AUTO:
            plan = self._searched(name, variant, quantize, plans[: len(quantize.auto.formats)], plans)
        elif quantize.overrides:
            options = MixOptions(overrides=quantize.overrides)
            plan = self._shared.plan.add(f"{name}/mix", mix, plan=plan, others=plans, options=options)[
                "quantizationplan"
            ]
        if quantize.qat is not None:
            plan = self._shared.plan.add(
                f"{name}/finetune",
                finetune,
                source=self._shared.source,
                model=self._shared.exported(),
                plan=plan,
                calibration=self._shared.calibration,
                options=quantize.qat,
                insertion=InsertOptions(exclude=quantize.exclude, include=quantize.include),
                dialect=self._dialect,
                loader=self._shared.loader,
                trainer="modelopt-training",
            )["quantizationplan"]
        return plan

    def _searched(
        self, name: str, variant: Variant, quantize: QuantizeOptions, plans: list[Ref], others: list[Ref]
    ) -> Ref:
        """The mixture that `format: auto` settles on."""
        auto, ranges = quantize.auto, self.ranges(quantize)
        scored = self.sensitivity(name, plans, auto.sensitivity)
        return self._shared.plan.add(
            f"{name}/search",
            search,
            model=self._shared.exported(),
            plans=plans,
            others=others,
            sensitivity=scored,
            selection=self._shared.selection,
            metric=self._shared.metric,
            ranges=ranges,
            options=SearchOptions(
                accuracy=variant.gates.accuracy,
                margin=auto.margin,
                objective=auto.cheap,
                evaluations=auto.evaluations,
                rows=auto.samples,
                overrides=quantize.overrides,
                insert=quantize.insert,
            ),
            dialect=self._dialect,
            interpreter="onnxruntime",
        )["plan"]

    def sensitivity(self, name: str, plans: list[Ref], options: SensitivityOptions) -> Ref:
        """The scores of every module in several plans."""
        if self._shared.is_onnx:
            step = self._shared.plan.add(
                f"{name}/sensitivity",
                sensitivity_onnx,
                model=self._shared.exported(),
                plans=plans,
                calibration=self._shared.calibration,
                options=options.model_copy(update={"samples": min(options.samples, ONE_BY_ONE_ROWS)}),
                dialect=self._dialect,
                interpreter="onnxruntime",
            )
        else:
            step = self._shared.plan.add(
                f"{name}/sensitivity",
                sensitivity,
                source=self._shared.source,
                plans=plans,
                calibration=self._shared.calibration,
                options=options,
                loader=self._shared.loader,
                prober="prober",
            )
        return step["sensitivity"]

    def ranges(self, quantize: QuantizeOptions) -> Ref | None:
        """What the operands of attention and of residual additions reach, where they are to be quantized."""
        follows = quantize.attention == "auto" and any(
            FORMATS[form].static_activation == "fp8" for form in quantize.formats
        )
        if self._shared.recipe.decoder is not None:
            follows = False  # its attention reads the cache, which has formats of its own
        if not follows and quantize.attention in ("auto", "high") and quantize.residual == "high":
            return None
        return self._shared.plan.add(
            "ranges",
            observe_ranges,
            model=self._shared.exported(),
            calibration=self._shared.calibration,
            interpreter="onnxruntime",
        )["operandranges"]

    def _calibrated(self, options: CalibrateOptions) -> Ref:
        """One format's calibration, which every variant that asks for the same shares."""
        name, calibration = f"calibrate-{options.format}", self._shared.calibration
        if self._shared.is_onnx:
            step = self._shared.plan.add(
                name,
                calibrate_onnx,
                model=self._shared.exported(),
                calibration=calibration,
                options=options,
                calibrator="modelopt-onnx",
            )
        else:
            step = self._shared.plan.add(
                name,
                calibrate,
                source=self._shared.source,
                calibration=calibration,
                options=options,
                loader=self._shared.loader,
                calibrator="checkpoint-codes" if options.rounding == "checkpoint" else "modelopt",
            )
        return step["quantizationplan"]
