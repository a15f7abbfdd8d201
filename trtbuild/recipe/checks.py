"""What no single field can know: whether the parts of a recipe fit together."""

from __future__ import annotations

from pydantic import ValidationError

from trtbuild.core.formats import CALIBRATED_FORMATS
from trtbuild.recipe.expand import Variant, expanded
from trtbuild.recipe.fields import keys_of, knows, model_at, nearest
from trtbuild.recipe.problems import Finding, findings_of
from trtbuild.recipe.schema import Recipe, VariantRecipe
from trtbuild.recipe.yaml_document import Document, KeyPath


def check(recipe: Recipe, document: Document) -> list[Finding]:
    """Everything that is wrong with a recipe whose every field is right."""
    findings = _check_matrix(recipe, document)
    if findings:
        return findings  # the variants would repeat them
    found, findings = expanded(recipe)
    if (wrong := _check_reference(recipe, found)) and not findings:
        findings.append(wrong)
    for variant in found.values():
        if variant.quantize is None:
            continue
        at: KeyPath = ("variants", variant.spelled, "quantize")
        if recipe.model.onnx is not None:
            message = f"variant {variant.spelled}: quantization needs the PyTorch model for now, and the model is ONNX"
            findings.append(Finding(at, message, "give model.huggingface or model.factory, or drop quantize"))
        if variant.quantize.format in CALIBRATED_FORMATS and recipe.data.calibration == 0:
            message = (
                f"variant {variant.spelled}: format {variant.quantize.format} needs samples, and data.calibration is 0"
            )
            findings.append(Finding(("data", "calibration"), message, "for example 256"))
    return findings


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
    plain = [name for name, variant in found.items() if variant.quantize is None]
    if recipe.reference is None:
        hint = "add one, for example fp16: {precision: fp16}"
        return (
            None
            if plain
            else Finding(("variants",), "no variant is without quantize, so there is nothing to compare with", hint)
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
