"""A LightTTS command line as recipes: CosyVoice's language model as its modes run it, and the flow decoder.

`python -m light_tts.server.api_server --model_dir ... --mode triton_int8kv triton_int8weight`, the arguments of
light_tts/server/api_cli.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trtbuild.core.errors import RecipeError
from trtbuild.core.format_names import meaning_of
from trtbuild.recipe.conversion.written import (
    Converted,
    Quantized,
    quantized,
    quantized_cache,
    recipe_text,
    variant_name,
)
from trtbuild.recipe.shipped import shipped_names

COMMAND = "python -m light_tts.server.api_server --model_dir MODEL --mode triton_int8kv triton_int8weight"
PRECISIONS = {"float16": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "float32": "fp32", "fp32": "fp32"}
DEFAULT_LENGTH = 8192
"""`--max_req_total_len` where it is not said."""


def converted(told: Mapping[str, Sequence[str]]) -> list[Converted]:
    """The recipes for a command line, whose arguments are `told`.

    Raises RecipeError where a mode is impossible, saying why and what is nearest.
    """
    if not (directory := "".join(told.get("model_dir", []))):
        raise RecipeError("the command line has no --model_dir", hint=f"for example: {COMMAND}")
    directory = directory.rstrip("/")
    newer = "cosyvoice3" in directory.lower()
    spelled = "".join(told.get("data_type", [])) or "float16"
    if spelled not in PRECISIONS:
        raise RecipeError(f"--data_type {spelled} is none of {', '.join(PRECISIONS)}")
    found = [_language_model(told, directory, newer, PRECISIONS[spelled])]
    if "".join(told.get("load_trt", ["True"])):  # argparse's bool: every text but the empty one is true
        found.append(_flow(directory, newer))
    return found


def _language_model(told: Mapping[str, Sequence[str]], directory: str, newer: bool, precision: str) -> Converted:
    extends = "cosyvoice3/llm" if newer and "cosyvoice3/llm" in shipped_names() else "cosyvoice2/llm"
    capacity = int("".join(told.get("max_req_total_len", [])) or DEFAULT_LENGTH)
    variants, kernels = _modes(told.get("mode", []))
    head = [f"From LightTTS's command line for {directory.rsplit('/', 1)[-1]}."]
    if newer and extends == "cosyvoice2/llm":
        head.append("Over CosyVoice2's recipe: the names and sizes of CosyVoice3's language model may ask for another.")
    head += [f"{name} is {meaning_of(name).reason.split(':')[0]}, and has no counterpart here." for name in kernels]
    settings: dict[str, Any] = {
        "model": {"factory": {"files": [f"{directory}/llm.pt"]}},
        "decoder": {"capacity": capacity},
    }
    if precision != "fp16" or not any("kv_cache" in variant.settings for variant in variants):
        settings["gates"] = {"accuracy": {"kv_bytes_ratio": None}}  # a cache as computed, which the recipe refuses
    recipe = f"{'cosyvoice3' if newer else 'cosyvoice2'}-llm"
    text = recipe_text(recipe=recipe, extends=extends, head=head, settings=settings, variants=variants, plain=precision)
    return Converted("llm", text, [variant.remark for variant in variants])


def _modes(modes: Sequence[str]) -> tuple[list[Quantized], list[str]]:
    """One variant for all modes together, as LightTTS runs them, and the names of modes that are kernels only."""
    kernels, weights, caches = [], [], []
    for mode in modes:
        meaning = meaning_of(f"LightTTS:{mode}")
        if meaning.canonical is None and meaning.kv_cache is None and "attention kernel" in meaning.reason:
            kernels.append(mode)
        elif meaning.kv_cache is not None or meaning.nearest_kv_cache is not None:
            caches.append(quantized_cache(mode, "LightTTS"))
        else:
            weights.append(quantized(mode, "LightTTS"))
    for several in (weights, caches):
        if len(several) > 1:
            names = " and ".join(each.name for each in several)
            raise RecipeError(f"--mode asks for {names} at once", hint="take one of them")
    both = [*weights, *caches]
    if not both:
        return [], kernels
    settings = {key: value for each in both for key, value in each.settings.items()}
    name, remark = variant_name(*(each.name for each in both)), "; ".join(each.remark for each in both)
    return [Quantized(name, settings, remark)], kernels


def _flow(directory: str, newer: bool) -> Converted:
    """The flow decoder's estimator, which LightTTS runs in TensorRT: in FP16 for CosyVoice2, in FP32 for CosyVoice3."""
    precision = "fp32" if newer else "fp16"
    name = "cosyvoice3" if newer else "cosyvoice2"
    settings = {"model": {"factory": {"files": [f"{directory}/flow.pt"]}}}
    text = recipe_text(
        recipe=f"{name}-flow",
        extends=f"{name}/flow",
        head=[f"LightTTS's flow decoder in TensorRT (--load_trt), in {precision.upper()} as it runs it."],
        settings=settings,
        variants=[],
        plain=precision,
    )
    return Converted("flow", text, [])
