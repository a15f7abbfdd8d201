"""Whether what a recipe says of a decoder fits the rest of it, and can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trtbuild.core.cache_legality import refusal
from trtbuild.core.errors import RecipeError
from trtbuild.core.hardware import gpu_named
from trtbuild.recipe.expand import Variant
from trtbuild.recipe.problems import Finding
from trtbuild.recipe.schema import AUTO, SEARCHED, Recipe
from trtbuild.recipe.yaml_document import Document, KeyPath


def check_decoder(recipe: Recipe, document: Document, found: Mapping[str, Variant]) -> Iterator[Finding]:
    """What does not go together: with `decoder`, and without it."""
    model = recipe.model
    if recipe.decoder is None:
        if model.huggingface is not None and not model.huggingface.outputs:
            yield Finding(
                ("model", "huggingface"),
                "model.huggingface.outputs is missing",
                "fields of the model's output to export, in order; only a decoder's are known",
            )
        for variant in found.values():
            if variant.kv_cache.mode != "float":
                message = f"variant {variant.spelled}: kv_cache is for decoders, and the recipe has no decoder"
                yield Finding(
                    ("variants", variant.spelled, "kv_cache"), message, "for example decoder: {capacity: 4096}"
                )
        return
    if ("shapes",) in document.places:
        yield Finding(("shapes",), "shapes follow from decoder", "leave shapes out")
    if recipe.metric is not None:
        hint = "leave metric out; gates.accuracy knows perplexity_ratio, top1_agreement, ... (docs/llm.md)"
        yield Finding(("metric",), "a decoder's metrics are built in", hint)
    if model.onnx is not None:
        hint = "name the Hugging Face folder it came from: model.huggingface"
        yield Finding(("model", "onnx"), "a decoder is exported from PyTorch, and the model is ONNX", hint)
    if model.huggingface is not None and model.huggingface.outputs not in ([], ["logits"]):
        yield Finding(("model", "huggingface", "outputs"), "a decoder gives its logits", "leave outputs out")
    for variant in found.values():
        yield from _check_variant(recipe, variant)


def check_cache_legality(
    variant: Variant, backend: str, version: str | None, sm: tuple[int, int] | None = None
) -> Iterator[Finding]:
    """What this version of the backend, on the recipe's GPU or else on `sm`, cannot run of a variant's cache."""
    at: KeyPath = ("variants", variant.spelled, "kv_cache")
    try:
        sm = gpu_named(variant.engine.gpu).sm if variant.engine.gpu else sm
        found = refusal(variant.kv_cache.mode, backend, version, sm)
    except RecipeError as error:
        yield Finding(("engine",), error.message, error.hint)
        return
    if found is not None:
        yield Finding(at, f"variant {variant.spelled}: {found.message}", found.hint)


def _check_variant(recipe: Recipe, variant: Variant) -> Iterator[Finding]:
    at, said = ("variants", variant.spelled), f"variant {variant.spelled}"
    if variant.precision == "bf16":
        yield Finding((*at, "precision"), f"{said}: a KV cache is FP16 or 8 bits, not bf16", "precision: fp16 or fp32")
    if variant.kv_cache.mode in ("int8_static", "fp8") and recipe.data.calibration == 0:
        message = f"{said}: kv_cache {variant.kv_cache.mode} needs samples, and data.calibration is 0"
        yield Finding(("data", "calibration"), message, "for example 64; kv_cache: int8 needs none")
    if variant.engine.placement == SEARCHED:
        yield Finding((*at, "engine"), f"{said}: engine.placement auto is not for decoders", "leave it out")
    quantize = variant.quantize
    if quantize is None:
        return
    if quantize.format == AUTO:
        hint = "name a format, or give modules theirs by overrides"
        yield Finding((*at, "quantize"), f"{said}: format auto is not for decoders yet", hint)
    if quantize.attention in ("int8", "fp8"):
        hint = "leave attention out, and set kv_cache: int8 or fp8"
        message = f"{said}: a decoder's attention reads its cache, so quantize.attention cannot quantize it"
        yield Finding((*at, "quantize"), message, hint)
