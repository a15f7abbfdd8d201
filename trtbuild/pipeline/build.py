"""Build a recipe: the whole way, from YAML to engines with verdicts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from trtbuild.core.disk import write_atomically
from trtbuild.core.events import Listener
from trtbuild.core.machine import processor
from trtbuild.core.placement import PlacementChoice
from trtbuild.core.report import BuildReport, CoverageSummary, LatencySummary, PrepareReport, VariantReport, recommend
from trtbuild.core.results import Comparison, Coverage, Measurement, Verdict
from trtbuild.core.values import Result
from trtbuild.pipeline.calibration_record import calibration_record
from trtbuild.pipeline.compose import Composition, VariantSteps, compose, precision_of
from trtbuild.pipeline.explain import require_backends
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.halfway import Until
from trtbuild.pipeline.job import RESULT_FILE
from trtbuild.pipeline.plan import Ref
from trtbuild.pipeline.release import main_file, release
from trtbuild.pipeline.run import Finished, Limits, walk
from trtbuild.pipeline.store import Store
from trtbuild.recipe import expand
from trtbuild.recipe.expand import Variant
from trtbuild.recipe.load import load
from trtbuild.recipe.sources import companions

R = TypeVar("R", bound=Result)


def build(
    recipe: str | Path,
    *,
    sets: Sequence[str] = (),
    variants: Sequence[str] = (),
    store: Path,
    output: Path | None = Path("engines"),
    listener: Listener | None = None,
    limits: Limits | None = None,
) -> BuildReport:
    """Build, validate and measure the variants of a recipe; with `output` None nothing is written outside the store.

    Raises any TrtbuildError. A variant that fails its gates is no error: the report says so.
    """
    began = time.perf_counter()
    loaded = load(recipe, sets, variants)
    opened = Store(store)
    composition = compose(loaded, variants, elsewhere=opened.has_imported)
    resolved = expand.variants(loaded.recipe)
    opened.sweep()
    files = FileDigests(store / "digests.sqlite")
    beside = {file: files.of(file) for file in companions(loaded)}
    require_backends(composition.plan, opened, files)
    with opened.leased():
        done = walk(composition.plan, opened, files, listener or Listener(), limits or Limits())
        reports = [
            _variant(resolved[name], steps, composition, opened, done, output, beside)
            for name, steps in composition.variants.items()
        ]
        measured = [_read(opened, done, steps.measurement, Measurement) for steps in composition.variants.values()]
    best, because = recommend(reports)
    report = BuildReport(
        recipe=loaded.recipe.recipe,
        variants=reports,
        recommended=best,
        recommended_because=because,
        reference=composition.reference,
        backend=composition.backend,
        backend_because=composition.backend_because,
        device=next((each.device for each in measured if each.device), processor()),
        elapsed_s=round(time.perf_counter() - began, 3),
        steps_run=len(done.ran),
        steps_reused=len(done.actions) - len(done.ran),
    )
    if output:
        write_report(report, output)
    return report


def prepare(
    recipe: str | Path,
    *,
    until: Until,
    sets: Sequence[str] = (),
    variants: Sequence[str] = (),
    store: Path,
    listener: Listener | None = None,
    limits: Limits | None = None,
) -> PrepareReport:
    """Do the steps of a recipe that lead to a stage, and leave the rest to another machine.

    Raises any TrtbuildError.
    """
    began = time.perf_counter()
    loaded = load(recipe, sets, variants)
    opened = Store(store)
    composition = compose(loaded, variants, until=until, elsewhere=opened.has_imported)
    opened.sweep()
    files = FileDigests(store / "digests.sqlite")
    require_backends(composition.plan, opened, files)
    with opened.leased():
        done = walk(composition.plan, opened, files, listener or Listener(), limits or Limits())
    return PrepareReport(
        recipe=loaded.recipe.recipe,
        until=until,
        variants=list(composition.variants),
        backend=composition.backend,
        backend_because=composition.backend_because,
        elapsed_s=round(time.perf_counter() - began, 3),
        steps_run=len(done.ran),
        steps_reused=len(done.actions) - len(done.ran),
    )


def write_report(report: BuildReport, output: Path) -> None:
    """Keep the report beside the engines."""
    write_atomically(output / report.recipe / "report.json", report.model_dump_json(indent=1) + "\n")


def _variant(
    variant: Variant,
    steps: VariantSteps,
    composition: Composition,
    store: Store,
    done: Finished,
    output: Path | None,
    beside: Mapping[Path, str],
) -> VariantReport:
    comparison = _read(store, done, steps.comparison, Comparison)
    coverage = _read(store, done, steps.coverage, Coverage)
    measurement = _read(store, done, steps.measurement, Measurement)
    verdict = _read(store, done, steps.verdict, Verdict)
    placement = None if steps.placement is None else _read(store, done, steps.placement, PlacementChoice)
    behind = composition.plan.needed_by({steps.verdict.step})
    engine_digest = done.actions[steps.engine.step].outputs[steps.engine.output].digest
    if output:
        engine = release(
            store,
            output / composition.plan.recipe / variant.name,
            engine_digest,
            {step: done.actions[step] for step in composition.plan.steps if step in behind},
            {
                "recipe": composition.plan.recipe,
                "variant": variant.name,
                "reference": composition.reference,
                "approximates": variant.approximates,
                "precision": precision_of(variant, composition.dialect),
                "quantization": variant.quantize.format if variant.quantize else None,
                "backend": composition.backend,
                "inputs": {
                    tensor: {"shape": measurement.shapes[tensor], "dtype": spec.dtype}
                    for tensor, spec in composition.shapes.inputs.items()
                },
                "calibration": calibration_record(composition.plan, behind, done.actions, store),
                "coverage": coverage.model_dump(mode="json"),
                "placement": None if placement is None else placement.model_dump(mode="json"),
                "comparison": comparison.model_dump(mode="json"),
                "measurement": measurement.model_dump(mode="json"),
                "verdict": verdict.model_dump(mode="json"),
            },
            beside,
        )
    else:
        engine = main_file(store.folder_of(engine_digest))
    return VariantReport(
        name=variant.name,
        engine=str(engine),
        size_bytes=measurement.engine_bytes,
        cache_bytes=0 if measurement.decoder is None else measurement.decoder.cache_bytes,
        latency_ms=_latency(measurement),
        speedup_vs_reference=verdict.speedup,
        accuracy=verdict.accuracy,
        accuracy_vs_reference={
            f"{output_name}.{metric}": value
            for output_name, agreement in comparison.against_reference.items()
            for metric, value in agreement.model_dump().items()
        },
        coverage=CoverageSummary(
            asked=coverage.asked, inserted=coverage.inserted, ran=coverage.ran, untold=coverage.untold
        ),
        kept_high=coverage.kept_by_default,
        approximates=variant.approximates,
        placement=placement,
        verdict=verdict.outcome,
        failed=verdict.failed,
        reasons=verdict.reasons,
        remarks=verdict.remarks,
        reused=not behind & done.ran,
    )


def _latency(measurement: Measurement) -> LatencySummary:
    engine, decoder = measurement.engine, measurement.decoder
    return LatencySummary(
        median=engine.median_ms,
        p95=engine.p95_ms,
        noise=engine.noise,
        first_token=None if decoder is None else decoder.first_token.median_ms,
        tokens_per_s=None if decoder is None else decoder.tokens_per_s,
    )


def _read(store: Store, done: Finished, ref: Ref, kind: type[R]) -> R:
    output = done.actions[ref.step].outputs[ref.output]
    return kind.model_validate_json((store.folder_of(output.digest) / RESULT_FILE).read_bytes())
