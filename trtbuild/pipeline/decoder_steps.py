"""The steps that only decoders have: their cache, and a validation and a measurement that go token by token."""

from __future__ import annotations

from trtbuild.core.dialects import Dialect
from trtbuild.pipeline.plan import Ref
from trtbuild.pipeline.shared_steps import SharedSteps
from trtbuild.recipe.decoder_schema import DecoderRecipe
from trtbuild.recipe.expand import Variant
from trtbuild.stages.measure_decoder import measure_decoder
from trtbuild.stages.quantize_cache import calibrate_cache, quantize_cache, use_native_cache
from trtbuild.stages.read import read, read_in_fp32
from trtbuild.stages.validate_decoder import validate_decoder


class DecoderSteps:
    """Adds a decoder's steps to the plan."""

    def __init__(self, shared: SharedSteps, decoder: DecoderRecipe, backend: str, dialect: Dialect) -> None:
        self._shared, self._decoder, self._backend, self._dialect = shared, decoder, backend, dialect

    def with_cache(self, name: str, variant: Variant, model: Ref, coverage: Ref | None) -> tuple[Ref, Ref | None]:
        """The graph with the variant's cache, and the coverage that counts it."""
        asked = variant.kv_cache
        if asked.mode == "float":
            if not self._dialect.native_cache:
                return model, coverage
            return self._shared.plan.add(f"{name}/cache", use_native_cache, model=model)["onnxmodel"], coverage
        ranges = None
        if asked.mode in ("int8_static", "fp8"):
            ranges = self._shared.plan.add(
                "calibrate-cache",
                calibrate_cache,
                source=self._shared.source,
                calibration=self._shared.calibration,
                options=asked.calibrate,
                loader="decoder",
                observer="decoder",
            )["quantizationplan"]
        step = self._shared.plan.add(
            f"{name}/cache", quantize_cache, model=model, coverage=coverage, plan=ranges, options=asked.cache
        )
        return step["model"], step["coverage"]

    def comparison(self, name: str, engine: Ref, reference: tuple[str, Ref]) -> Ref:
        """The steps that compare an engine with the reference, by its variant's name and engine."""
        truth = self._shared.plan.add(
            "read",
            read_in_fp32,
            source=self._shared.source,
            evaluation=self._shared.evaluation,
            loader="decoder",
            exporter="pytorch",
        )
        return self._shared.plan.add(
            f"{name}/validate",
            validate_decoder,
            engine=engine,
            reference=reference[1],
            evaluation=self._shared.evaluation,
            truth=truth["reading"],
            reading=self._reading(name, engine),
            reference_reading=self._reading(*reference),
            options=self._decoder.forced,
            runner=self._backend,
            comparer="polygraphy",
        )["comparison"]

    def measurement(self, name: str, variant: Variant, engine: Ref, reference: Ref) -> Ref:
        """The step that times an engine beside the reference."""
        return self._shared.plan.add(
            f"{name}/measure",
            measure_decoder,
            engine=engine,
            reference=reference,
            evaluation=self._shared.evaluation,
            shapes=self._shared.recipe.shapes,
            options=variant.measure,
            runner=self._backend,
        )["measurement"]

    def _reading(self, name: str, engine: Ref) -> Ref:
        return self._shared.plan.add(
            f"{name}/read",
            read,
            engine=engine,
            evaluation=self._shared.evaluation,
            options=self._decoder.read,
            runner=self._backend,
        )["reading"]
