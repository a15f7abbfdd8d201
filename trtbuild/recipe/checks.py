"""What no single field can know: whether the parts of a recipe fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from trtbuild.core import legality
from trtbuild.core.dialects import implied_backend
from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.hardware import gpu_named
from trtbuild.core.requirements import NEAREST, TORCH_ONLY
from trtbuild.recipe.decoder_checks import check_cache_legality, check_decoder
from trtbuild.recipe.expand import Variant, expanded
from trtbuild.recipe.fields import keys_of, knows, model_at, nearest
from trtbuild.recipe.problems import Finding, findings_of
from trtbuild.recipe.schema import AS_ASKED, AUTO, SEARCHED, EngineOptions, QuantizeOptions, Recipe, VariantRecipe
from trtbuild.recipe.yaml_document import Document, KeyPath


def check(recipe: Recipe, document: Document, only: Sequence[str] | None = ()) -> list[Finding]:
    """Everything that is wrong with a recipe whose every field is right; what cannot run is asked of `only` some
    variants."""
    findings = _check_matrix(recipe, document)
    if findings:
        return findings  # the variants would repeat them
    found, findings = expanded(recipe)
    findings += check_decoder(recipe, document, found)
    if (wrong := _check_reference(recipe, found)) and not findings:
        findings.append(wrong)
    for variant in found.values():
        asked = only is not None and (not only or variant.name in only)
        if variant.quantize is not None:
            findings += _check_quantize(recipe, variant, variant.quantize)
            if asked:
                findings += check_legality(variant, variant.quantize, *_target(variant.engine))
        if recipe.decoder is not None and asked:
            findings += check_cache_legality(variant, *_target(variant.engine))
    return findings


def _check_quantize(recipe: Recipe, variant: Variant, quantize: QuantizeOptions) -> Iterator[Finding]:
    """Whether a variant's formats can be calibrated from this recipe, and can run where it is built for."""
    at: KeyPath = ("variants", variant.spelled, "quantize")
    said = f"variant {variant.spelled}"
    if recipe.model.onnx is not None:
        yield from _check_without_pytorch(at, said, quantize)
    if quantize.rounding == "gptq" and (dynamic := [form for form in quantize.formats if FORMATS[form].dynamic]):
        yield Finding(at, f"{said}: rounding gptq is not for {dynamic[0]}, which rounds to nearest", "drop rounding")
    if quantize.rounding == "checkpoint":
        yield from _check_import(at, said, quantize)
    calibrations = [quantize.calibrate(form) for form in quantize.formats]
    if recipe.data.calibration == 0 and (asking := [options for options in calibrations if options.needs_samples]):
        message = f"{said}: {asking[0].said} needs samples, and data.calibration is 0"
        yield Finding(("data", "calibration"), message, "for example 256")
    if quantize.format == AUTO and not variant.gates.accuracy:
        message = f"{said}: format auto looks for the cheapest formats that keep an accuracy, and no gate asks for one"
        yield Finding(at, message, "set gates.accuracy, for example cosine_min: {min: 0.99}")
    placement = variant.engine.placement
    if placement != AS_ASKED and (quantize.attention != "auto" or quantize.residual != "high"):
        message = f"{said}: engine.placement {placement} decides where Q/DQ stand, and quantize says it too"
        yield Finding(at, message, f"drop quantize.attention and quantize.residual, or set placement: {AS_ASKED}")
    if placement == SEARCHED and recipe.data.calibration == 0:
        message = f"{said}: engine.placement auto compares engines on calibration samples, and data.calibration is 0"
        yield Finding(("data", "calibration"), message, "for example 256")
    if quantize.qat is not None and (unfit := [form for form in quantize.formats if not _trains(form)]):
        message = f"{said}: qat cannot train {unfit[0]}: {_unfit_to_train(unfit[0])}"
        yield Finding(at, message, "train int8, int4 or w8a16")
    unseen = [part for part in ("embeddings", "attention", "residual") if getattr(quantize, part) in ("int8", "fp8")]
    if quantize.qat is not None and unseen:
        message = f"{said}: qat trains layers, and sees nothing of {unseen[0]} in {getattr(quantize, unseen[0])}"
        yield Finding(at, message, f"set {unseen[0]} to high, or drop qat")


def _check_without_pytorch(at: KeyPath, said: str, quantize: QuantizeOptions) -> Iterator[Finding]:
    """What an ONNX model cannot have done to it."""
    for form in quantize.formats:
        if form in TORCH_ONLY:
            message = f"{said}: format {form} needs the PyTorch model, and the model is ONNX: {TORCH_ONLY[form]}"
            yield Finding(at, message, f"nearest for an ONNX model: {_nearest_for_onnx(form)}")
    if quantize.rounding != "nearest":
        message = f"{said}: rounding {quantize.rounding} needs the PyTorch model, and the model is ONNX"
        yield Finding(at, message, "drop rounding")
    if quantize.qat is not None:
        yield Finding(at, f"{said}: qat trains the PyTorch model, and the model is ONNX", "drop qat")


def _check_import(at: KeyPath, said: str, quantize: QuantizeOptions) -> Iterator[Finding]:
    """What does not go with codes that a checkpoint brings."""
    if dynamic := [form for form in quantize.formats if FORMATS[form].dynamic]:
        message = f"{said}: rounding checkpoint reads INT8, FP8 and INT4 weights, and {dynamic[0]} has others"
        yield Finding(at, message, "drop rounding, and let the floats be quantized here")
    if quantize.format == AUTO:
        message = f"{said}: format auto chooses formats, and with rounding checkpoint the checkpoint has chosen"
        yield Finding(at, message, "name its format, or drop rounding")
    if quantize.qat is not None:
        message = f"{said}: qat trains new codes, and rounding checkpoint keeps those of the checkpoint"
        yield Finding(at, message, "drop one of them")


def _target(engine: EngineOptions) -> tuple[str, str | None]:
    """Who builds, as far as the recipe alone tells."""
    backend = engine.backend if engine.backend != "auto" else implied_backend(engine.target) or "onnxruntime"
    return backend, engine.target if backend == "tensorrt" else None


def check_legality(
    variant: Variant, quantize: QuantizeOptions, backend: str, version: str | None, sm: tuple[int, int] | None = None
) -> Iterator[Finding]:
    """What this version of the backend, on the recipe's GPU or else on `sm`, cannot run of a variant."""
    at: KeyPath = ("variants", variant.spelled, "quantize")
    engine = variant.engine
    try:
        sm = gpu_named(engine.gpu).sm if engine.gpu else sm
        found = legality.check(quantize.formats, backend, version, sm, block_size=quantize.block_size)
    except RecipeError as error:
        yield Finding(("engine",), error.message, error.hint)
        return
    for one in found:
        if one.severity == "error":
            yield Finding(at, f"variant {variant.spelled}: {one.format}: {one.message}", one.hint)


def _nearest_for_onnx(form: Format) -> str:
    return next(other for other in NEAREST[form] if other not in TORCH_ONLY)


def _trains(form: Format) -> bool:
    return not _unfit_to_train(form)


def _unfit_to_train(form: Format) -> str:
    """Why training cannot write a format's codes; empty where it can."""
    if FORMATS[form].algorithm in ("smoothquant", "awq"):
        return "its layers share scales"
    return "" if FORMATS[form].weight in ("int8", "int4") else "training writes integer codes"


def _check_matrix(recipe: Recipe, document: Document) -> list[Finding]:
    """Axes must be paths inside a variant, and each value must fit there."""
    findings: list[Finding] = []
    for axis, values in recipe.matrix.items():
        path = tuple(axis.split("."))
        if not knows(VariantRecipe, path):
            model = next(
                (model for end in range(len(path) - 1, -1, -1) if (model := model_at(VariantRecipe, path[:end]))), None
            )
            depth = next((end for end in range(1, len(path) + 1) if not knows(VariantRecipe, path[:end])), 1)
            known = [".".join((*path[: depth - 1], key)) for key in keys_of(model)] if model else []
            findings.append(
                Finding(("matrix", axis), f"matrix: {axis} is no path inside a variant", nearest(axis, known))
            )
            continue
        for number, value in enumerate(values):
            nested = value
            for key in reversed(path):
                nested = {key: nested}
            try:
                VariantRecipe.model_validate(nested)
            except ValidationError as error:
                at: KeyPath = ("matrix", axis, number)
                said = findings_of(error, Document(nested, {}))
                findings += [Finding(at, f"matrix: {one.message}", one.hint) for one in said]
    return findings


def _check_reference(recipe: Recipe, found: dict[str, Variant]) -> Finding | None:
    """Why no variant can be compared with, or None where one can."""
    plain = [name for name, variant in found.items() if variant.is_plain]
    if recipe.reference is None:
        hint = "add one, for example fp16: {precision: fp16}"
        return (
            None
            if plain
            else Finding(("variants",), "every variant is quantized, so there is nothing to compare with", hint)
        )
    if recipe.reference not in found:
        return Finding(
            ("reference",), f"reference: there is no variant {recipe.reference}", nearest(recipe.reference, found)
        )
    if recipe.reference not in plain:
        message = (
            f"reference: variant {recipe.reference} is quantized; quantized engines are compared with one that is not"
        )
        return Finding(("reference",), message, f"there is: {', '.join(plain)}" if plain else "")
    return None
